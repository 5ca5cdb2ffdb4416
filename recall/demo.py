"""recall demo: synthetic logs, both arms trained, their bundles served, one answer of each."""

import os
from pathlib import Path
from typing import Annotated

import typer

from recall.serving import announce, ask, run_server, show_answer
from recall.terminal import command_here, out, progress_bar
from service.errors import ConfigurationError
from service.settings import load_settings

Option = typer.Option
ARMS = ("recgpt", "comirec")


def demo(
    output: Annotated[
        Path, Option(help="Folder for data, checkpoints and bundles; those that are there already are kept.")
    ] = Path(".recall/demo"),
    start: Annotated[
        bool, Option("--serve/--no-serve", help="Serve the bundles once they are made; --no-serve ends there.")
    ] = True,
    port: Annotated[int, Option(min=0, max=65_535, help="TCP port of the service; 0 takes any free one.")] = 8080,
    seed: Annotated[int, Option(help="Seed of the synthetic logs and of training.")] = 0,
) -> None:
    """Do it all on synthetic logs.

    Makes the logs, trains both arms, builds their bundles, serves them and asks each arm once.
    """
    bundles = {arm: make_bundle(arm, output, seed) for arm in ARMS}
    if not start:
        return
    given = load_settings(arms=bundles, port=port, state_dir=output / "state", log_level="warning")
    run_server(given, lambda url: ask_each(url, output / "data"))


def make_bundle(arm: str, folder: Path, seed: int) -> Path:
    """Prepares, trains and builds what does not exist yet."""
    from index.bundle.build import build_bundle
    from model.data.prepare import PrepareOptions, prepare
    from model.data.sequences import SequenceData
    from model.data.synthetic import SyntheticSpec
    from model.recipes.files import load_recipe
    from recall.training.train import Training, run_training

    data, checkpoint, bundle = folder / "data", folder / "checkpoints" / arm, folder / "bundles" / arm
    # a bundle of an older version may be refused: then it is made anew, not served
    if (bundle / "manifest.json").exists() and refusal(arm, bundle) is None:
        return bundle
    if not (data / "dataset.json").exists():
        prepare(PrepareOptions(synthetic=SyntheticSpec(seed=seed)))[0].save(data)
    training = Training(recipe=load_recipe("demo", arm), data=SequenceData.load(data), seed=seed, device="cpu")
    run_training(training, checkpoint)
    with progress_bar() as progress:
        task = progress.add_task(f"{arm} bundle", total=1)
        build_bundle(checkpoint, bundle)
        progress.update(task, completed=1)
    return bundle


def refusal(arm: str, bundle: Path) -> str | None:
    """The reason why the bundle cannot be served; None when it can."""
    from service.engine.loading import load_arm

    try:
        load_arm(arm, bundle, "cpu")
    except ConfigurationError as error:
        return str(error)
    return None


def ask_each(url: str, data: Path) -> None:
    """Prints one answer of each arm for a user of the demo's data."""
    from model.data.sequences import SequenceData

    dataset = SequenceData.load(data)
    history = dataset.catalogue.items.external(dataset.history(1, "test").tolist())[-20:]
    user = dataset.catalogue.users.external([1])[0]
    body = {"user_id": user, "history": history, "top_n": 5, "explain": True}
    for arm in ARMS:
        show_answer(ask(url, body, arm, os.environ.get("RECALL_API_KEY")))
    announce(url)
    out.print(f"try: {command_here()} query --url {url} --user 7 --history {','.join(map(str, history[-3:]))}")
