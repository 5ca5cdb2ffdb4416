"""recall train, build and evaluate: from a data set to a checkpoint, a bundle, and its measured quality."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from model.data.sequences import SequenceData
from model.recipes.files import load_recipe
from model.recipes.schema import Recipe
from recall.comparing import BY_HELP, checked_groupings, show_groups
from recall.terminal import err, last_line, out, progress_bar

Option = typer.Option
DataFolder = Annotated[Path, Option("--data", help="Folder that `recall prepare` wrote.")]


def train(
    arm: Annotated[str, typer.Argument(help="Section of the recipe: recgpt, comirec, sasrec, ..")],
    data: DataFolder,
    output: Annotated[Path, Option(help="Checkpoint folder to write.")],
    recipe: Annotated[
        str,
        Option(help="Name of a recipe (demo, beauty, kuairand, default) or a .yaml file; beauty:paper is the paper's."),
    ] = "default",
    seed: Annotated[int, Option(help="Seed; the same seed, machine and number of threads give the same weights.")] = 0,
    device: Annotated[str, Option(help="auto, cpu or cuda; auto takes a GPU where there is one.")] = "auto",
    max_epochs: Annotated[int | None, Option(help="Cut every stage to this many epochs: quicker, and worse.")] = None,
) -> None:
    """Train one arm.

    Weights, epoch and serving plan are chosen on the validation split; the test split is not read.
    """
    from model.training.trainer import with_epochs
    from service.engine.loading import choose_device

    chosen = load_recipe(recipe, arm)
    chosen = with_epochs(chosen, max_epochs) if max_epochs is not None else chosen
    run_training(chosen, SequenceData.load(data), output, seed, choose_device(device))


def run_training(recipe: Recipe, data: SequenceData, output: Path, seed: int, device: str) -> None:
    """Trains with a progress progress and saves."""
    from model.training.fit import fit
    from model.training.stages import EpochReport

    with progress_bar() as progress:
        tasks = [
            progress.add_task(f"{recipe.arm} {'prompts' if stage.num_prompts else 'train'}", total=stage.num_epochs)
            for stage in recipe.all_stages
        ]

        def show(report: EpochReport) -> None:
            measured = f"  {recipe.metric} {report.metric:.4f}" if report.metric is not None else ""
            progress.update(tasks[report.stage], completed=report.epoch)
            progress.console.print(
                f"{recipe.arm} epoch {report.epoch}: loss {report.loss:.4f}, {report.seconds:.1f} s{measured}"
            )

        checkpoint = fit(recipe, data, seed, device, show)
    checkpoint.save(output)
    provenance = checkpoint.provenance
    last_line(
        {
            "checkpoint": str(output),
            "seconds": round(provenance.training_seconds, 1),
            "plan": {"quotas": checkpoint.plan.quotas, "num_prompts": checkpoint.plan.prompts.num_prompts},
            "valid": provenance.metrics,
        }
    )


def build(
    checkpoint: Annotated[Path, Option(help="Checkpoint folder that `recall train` wrote.")],
    output: Annotated[Path, Option(help="Bundle folder to write; an older bundle there is replaced in one step.")],
    index: Annotated[
        str,
        Option(
            help="exact; auto, the fastest that finds enough of the exact hits, exact while that is cheap; or a FAISS "
            "factory string such as IVF1024,Flat: faster on millions of items, not exact."
        ),
    ] = "exact",
    recall_floor: Annotated[
        float, Option(min=0.5, max=1.0, help="Share of the 100 exact hits that auto has to find.")
    ] = 0.97,
    max_index_mb: Annotated[int | None, Option(min=1, help="Memory that auto may take, in MB. Default: any.")] = None,
) -> None:
    """Make a bundle to serve.

    It holds weights, item vectors, index and golden queries under one checksum; `recall serve` loads it.
    """
    from index.auto import IndexRequirements
    from index.bundle.build import build_bundle

    wanted = IndexRequirements(recall_floor=recall_floor, max_bytes=max_index_mb * 2**20 if max_index_mb else None)
    manifest = build_bundle(
        checkpoint, output, index, requirements=wanted, say=lambda text: err.print(text, markup=False)
    )
    facts = {"kind": manifest.arm_kind, "items": manifest.num_items, "dim": manifest.dim, "index": manifest.index_spec}
    last_line({"bundle": str(output), "digest": manifest.digest, **facts})


def evaluate(
    bundle: Annotated[Path, Option(help="Bundle folder to measure.")],
    data: DataFolder,
    split: Annotated[str, Option(help="valid or test; look at test once, after every choice is made.")] = "test",
    cutoff: Annotated[
        list[int] | None, Option(help="Length of the lists; may be repeated. Default: 5 10 20 50 100.")
    ] = None,
    by: Annotated[list[str] | None, Option(help=BY_HELP)] = None,
    max_users: Annotated[
        int | None, Option(help="Measure this many users, drawn at random: quicker, with more spread.")
    ] = None,
    device: Annotated[str, Option(help="auto, cpu or cuda; auto takes a GPU where there is one.")] = "auto",
) -> None:
    """Measure the lists that a bundle would serve.

    They are ranked over the whole catalogue without the history; coverage is the share of it that stands in any of the
    longest lists. The last line is JSON.
    """
    from model.evaluation.groups import coverage
    from model.evaluation.protocol import EvalSplit
    from service.engine.loading import choose_device, load_arm
    from service.engine.offline import OfflineArm, check_same_data
    from service.engine.offline import evaluate as evaluate_arm

    groupings = checked_groupings(by)
    arm, dataset = load_arm("evaluated", bundle, choose_device(device)), SequenceData.load(data)
    check_same_data(arm.release, dataset)
    if split not in ("valid", "test"):
        raise typer.BadParameter("split is valid or test")
    if split == "test" and dataset.candidates is not None:
        raise ValueError(
            f"the test split of {dataset.name} ranks {len(dataset.candidates)} of its items, a bundle ranks them all; "
            "measure the checkpoint with `recall reproduce`"
        )
    eval_split = EvalSplit.of(dataset, "valid" if split == "valid" else "test", max_users)
    cutoffs = sorted(cutoff or [5, 10, 20, 50, 100])
    with progress_bar() as progress:
        task = progress.add_task("evaluate", total=len(eval_split.users) * len(cutoffs))
        evaluated = evaluate_arm(
            OfflineArm(arm, dataset), eval_split, cutoffs, lambda done: progress.update(task, completed=done)
        )
    show_metrics(evaluated.metrics, cutoffs)
    covered = coverage(evaluated.lists, len(dataset.catalogue.items))
    out.print(f"coverage@{cutoffs[-1]}: {covered:.1%} of {len(dataset.catalogue.items):,} items")
    metrics = evaluated.metrics | {f"coverage@{cutoffs[-1]}": covered}
    parts = {"groups": list(show_groups(eval_split, groupings, evaluated.lists))} if by else {}
    whole = {"bundle": arm.release.bundle, "data": dataset.digest, "split": split, "users": len(eval_split.users)}
    last_line(whole | {"metrics": metrics} | parts)


def show_metrics(metrics: dict[str, float], cutoffs: list[int]) -> None:
    from model.evaluation.metrics import NAMES

    table = Table("k", *NAMES)
    for k in cutoffs:
        table.add_row(str(k), *(f"{metrics[f'{name}@{k}']:.4f}" for name in NAMES))
    out.print(table)
