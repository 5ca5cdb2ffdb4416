"""recall tune: the search for a recipe's settings, on the validation split."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.data.sequences import SequenceData
from model.recipes.files import load_recipe
from model.recipes.schema import Recipe
from recall.options import read_words, takes
from recall.terminal import last_line, out, progress_bar

if TYPE_CHECKING:
    import optuna

Option = typer.Option


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneCommand:
    """The options of `recall tune`."""

    system: Annotated[str, Option(help="Section of the recipe: recgpt, comirec, sasrec, ..")]
    data: Annotated[Path, Option(help="Folder that `recall prepare` wrote.")]
    journal: Annotated[
        Path, Option(help="File that keeps every trial; with the same file the search goes on where it stopped.")
    ]
    recipe: Annotated[str, Option(help="The recipe to start from, and its metric; as in `recall train`.")] = "default"
    trials: Annotated[int, Option(min=1, help="Number of trials that the journal holds in the end.")] = 40
    max_epochs: Annotated[
        int | None, Option(min=1, help="Cut every stage to this many epochs: quicker, and less like the real training.")
    ] = None
    only: Annotated[
        str | None,
        Option(help="Settings to search, with commas, e.g. learning_rate,network.dropout. Default: all of them."),
    ] = None
    device: Annotated[str, Option(help="auto, cpu or cuda; auto takes a GPU where there is one.")] = "auto"


@takes(TuneCommand)
def tune(options: TuneCommand) -> None:
    """Search a system's settings on validation.

    The test split is not read. The best section of the recipe is printed as YAML.
    """
    from model.training.search import Search
    from model.training.trainer import with_epochs
    from service.engine.loading import choose_device

    chosen = load_recipe(options.recipe, options.system)
    chosen = with_epochs(chosen, options.max_epochs) if options.max_epochs is not None else chosen
    check_tunable(chosen)
    names = tuple(read_words(options.only) or ())
    search = Search(chosen, SequenceData.load(options.data), options.journal, choose_device(options.device), only=names)
    silence_optuna()
    with progress_bar() as progress:
        task = progress.add_task(f"{options.system} trials", total=options.trials)

        def show(trial: "optuna.trial.FrozenTrial") -> None:
            progress.update(task, completed=trial.number + 1)
            value = f"{trial.value:.5f}" if trial.value is not None else "-"
            progress.console.print(
                f"trial {trial.number}: {trial.state.name.lower()}, {chosen.metric} {value}, {trial.params}",
                markup=False,
            )

        best = search.run(options.trials, show)
    out.print(as_section(best), markup=False)
    last_line({"journal": str(options.journal), "study": search.name, "metric": chosen.metric})


def check_tunable(recipe: Recipe) -> None:
    """Raises ValueError where there is nothing to search, or nothing to search with."""
    import importlib.util

    if not recipe.stages:
        raise ValueError(f"{recipe.arm} is not trained by stages of its own: there is nothing to tune")
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("tuning needs Optuna: pip install 'recgpt-recall[tune]'")


def silence_optuna() -> None:
    """Keeps Optuna from printing each trial a second time, in its own words."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def as_section(recipe: Recipe) -> str:
    """A section for a recipe file."""
    import yaml

    from model.recipes.digest import recipe_settings

    return yaml.safe_dump({recipe.arm: recipe_settings(recipe)}, sort_keys=False, default_flow_style=None).rstrip()
