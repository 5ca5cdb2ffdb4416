"""recall reproduce: the table of systems, run by run, into benchmarks/results/quality.jsonl and docs/results.md."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recall.options import read_words, takes
from recall.terminal import err, last_line, progress_bar

if TYPE_CHECKING:
    from recall.reproduction.progress import ProgressCallbacks
    from recall.reproduction.results import Results, Row
    from recall.reproduction.runner import RunPlan

Option = typer.Option
RECIPES = {"paper": ("paper",), "best": ("best",), "both": ("paper", "best"), "ablation": ("ablation",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceCommand:
    """The options of `recall reproduce`."""

    data: Annotated[Path, Option(help="Folder that holds s3rec/, kuairand_pure/ and kuairec/, or some of them.")]
    datasets: Annotated[
        str | None,
        Option(
            help="beauty, sports, toys, yelp, kuairand, kuairand-click, kuairec, with commas. Default: all there are."
        ),
    ] = None
    systems: Annotated[str | None, Option(help="Sections of the recipe, with commas. Default: all of them.")] = None
    recipe: Annotated[str, Option(help="paper (its settings and loss), best (of this project), both, or ablation.")] = (
        "best"
    )
    seeds: Annotated[int, Option(min=1, help="Number of seeds, 0 .. N-1; each trains anew.")] = 3
    results: Annotated[
        Path,
        Option(
            help="File of rows (JSON Lines) to read and to append to; a run that it has is not made again. The "
            "settings of each run go into settings.jsonl in the same folder."
        ),
    ] = Path("benchmarks/results/quality.jsonl")
    report: Annotated[Path, Option(help="Page to write from the rows; NAME-provenance.md stands beside it.")] = Path(
        "docs/results.md"
    )
    work: Annotated[
        Path, Option(help="Folder for prepared data, checkpoints of seed 0, finished stages and a journal.")
    ] = Path("runs")
    bundles: Annotated[Path | None, Option(help="Folder for a bundle of each run. Default: no bundles.")] = None
    max_epochs: Annotated[
        int | None, Option(min=1, help="Cut every stage for a quick try; its rows are marked and never reported.")
    ] = None
    study: Annotated[
        str | None,
        Option(
            help="A study on validation in place of the table: prompts (K 0..6, each trained), quotas (m : n) or "
            "diversity (ComiRec's lambda); the last two take the checkpoint of seed 0 that --work keeps."
        ),
    ] = None
    device: Annotated[str, Option(help="auto, cpu or cuda; auto takes a GPU where there is one.")] = "auto"


@takes(ReproduceCommand)
def reproduce(options: ReproduceCommand) -> None:
    """Train and measure the table of systems.

    A run whose rows are there already is skipped, so the command goes on where it was stopped: each run appends its
    rows in one step.
    """
    from recall.reproduction.datasets import find_sources, prepare_sources
    from recall.reproduction.progress import ProgressCallbacks
    from recall.reproduction.results import Results
    from recall.reproduction.runner import RunPlan
    from recall.reproduction.runner import reproduce as run_table
    from service.engine.loading import choose_device

    names = read_words(options.datasets) or find_sources(options.data)
    plan = RunPlan(
        datasets=prepare_sources(options.data, names, options.work),
        systems=read_words(options.systems),
        recipes=read_recipes(options.recipe),
        num_seeds=options.seeds,
        max_epochs=options.max_epochs,
        device=choose_device(options.device),
        stages=options.work / "stages",
    )
    rows, runs = Results(options.results), [] if options.study else plan.runs()
    with progress_bar() as progress:
        callbacks = ProgressCallbacks(progress, options.work, len(runs), options.bundles)
        fresh = run_studies(options.study, plan, rows, callbacks) if options.study else run_table(plan, rows, callbacks)
    write_pages(options.report, rows.rows())
    counts = {"runs": len(runs), "new_rows": len(fresh), "failed": callbacks.num_failed}
    last_line({"results": str(options.results), **counts})
    if callbacks.num_failed:
        raise typer.Exit(1)


def write_pages(page: Path, rows: list["Row"]) -> None:
    """Writes the tables, their provenance beside them, and the figures where matplotlib is installed."""
    import importlib.util

    from recall.reproduction import provenance, report
    from recall.reproduction.figures import draw

    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(report.render(rows), encoding="utf-8")
    page.with_name(f"{page.stem}-provenance.md").write_text(provenance.render(rows), encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        err.print("no figures: they need matplotlib (pip install 'recgpt-recall[plots]')", markup=False)
    else:
        draw(rows, page.parent / report.FIGURES)


def run_studies(name: str, plan: "RunPlan", rows: "Results", callbacks: "ProgressCallbacks") -> list["Row"]:
    """One study of every data set of the plan."""
    from recall.reproduction.runner import load_data
    from recall.reproduction.studies import Study, run_study

    studies = [
        Study(
            name=name,
            dataset=dataset,
            data=load_data(folder)[0],
            checkpoints=callbacks.work / "checkpoints",
            device=plan.device,
            stages=plan.stages,
            max_epochs=plan.max_epochs,
            callbacks=callbacks,
        )
        for dataset, folder in plan.datasets.items()
    ]
    return [row for study in studies for row in run_study(study, rows)]


def read_recipes(word: str) -> tuple[str, ...]:
    if word not in RECIPES:
        raise typer.BadParameter(f"recipe is {', '.join(RECIPES)}, not {word!r}")
    return RECIPES[word]
