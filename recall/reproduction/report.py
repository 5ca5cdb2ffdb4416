"""docs/results.md from the rows: published figures and ours side by side, and the figures drawn of them."""

from collections.abc import Sequence

from recall.reproduction import figures
from recall.reproduction.cells import (
    ABLATION,
    EMPTY,
    RECIPES,
    Dataset,
    Published,
    ResultsTable,
    number,
    table,
)
from recall.reproduction.results import Row
from recall.reproduction.runner import systems_of

FIGURES = "figures"  # folder beside the page


def render(rows: Sequence[Row], published: Published | None = None) -> str:
    """The whole page."""
    published = published or Published.load()
    cells = ResultsTable(rows)
    sections = [_section(cells, dataset, published) for dataset in published.datasets]
    return "\n\n".join([HEAD.format(paper=published.paper), *sections, *_pictures(rows)]) + "\n"


HEAD = """# Results

Written by `recall reproduce` from [quality.jsonl](../benchmarks/results/quality.jsonl); `make check` fails when the two
differ. Paper: {paper}. Record: the best published figures on the same files from item ids alone.
Ours, `paper`: the paper's settings and loss, but for what the head of that part of
[beauty.yaml](../model/recipes/beauty.yaml) names; ours, `best`: the recipe of this project, chosen on
validation. A figure is the mean over the seeds ± the standard deviation of the sample; without ± there is one seed. A
cell is empty where the paper has no figure or the recipe no such system. Commands, seeds, settings, machines and
commits stand in [results-provenance.md](results-provenance.md)."""


def _pictures(rows: Sequence[Row]) -> list[str]:
    drawn = figures.available(rows)
    shown = [f"![{figure.title(figure.panels(rows))}]({FIGURES}/{figure.name}.png)" for figure in drawn]
    return ["## Figures", *shown] if shown else []


def _section(cells: ResultsTable, dataset: Dataset, published: Published) -> str:
    parts = [f"## {dataset.title}"]
    if dataset.note:
        parts.append(dataset.note)
    for split in dataset.splits:
        parts.append(f"{split.capitalize()}: {' / '.join(dataset.metrics)}")
        parts.append(_figures(cells, dataset, published, split))
    parts += _ablation(cells, dataset, published)
    return "\n\n".join(parts)


def _figures(cells: ResultsTable, dataset: Dataset, published: Published, split: str) -> str:
    planned = {recipe: _planned(dataset, recipe) for recipe in RECIPES}
    head, lines = ["system", "paper", "ours, `paper`", "ours, `best`", "record"], []
    for system, label in published.systems.items():
        by_recipe = {recipe: cells.cell(dataset.name, system, recipe, split) for recipe in RECIPES}
        ours = [
            cell.show(dataset.metrics) if cell.rows or system in planned[recipe] else EMPTY
            for recipe, cell in by_recipe.items()
        ]
        printed = dataset.paper.get(system, [])
        line = [" / ".join(map(number, printed)), *ours, _record(dataset, system)]
        # a system that this data set's recipes do not have
        if any(line):
            lines.append([label, *line])
    # a column in which nothing stands and nothing is missing is left out
    kept = [column for column in range(len(head)) if any(line[column] for line in lines)]
    head, *lines = [[line[column] for column in kept] for line in (head, *lines)]
    return table(head, lines)


def _planned(dataset: Dataset, recipe: str) -> set[str]:
    """Systems whose cell has to have figures."""
    planned = set(systems_of(dataset.name, recipe))
    # the paper's settings are run to be set against its figures
    return planned & {*dataset.paper} if recipe == "paper" else planned


def _ablation(cells: ResultsTable, dataset: Dataset, published: Published) -> list[str]:
    """Variants that were run, each with its mean difference to another over the seeds that both have."""
    lines = []
    for name, variant in published.ablation.items():
        cell = cells.cell(dataset.name, name, ABLATION, "test")
        if cell.rows:
            base = cells.cell(dataset.name, variant.against or "", ABLATION, "test")
            against = published.ablation[variant.against].label if variant.against else EMPTY
            differences = [cell.difference(base, metric) for metric in dataset.metrics[-2:]] if base.rows else []
            lines.append(
                [variant.label, str(len(cell.rows)), cell.show(dataset.metrics[-2:]), " / ".join(differences), against]
            )
    if not lines:
        return []
    metrics = " / ".join(dataset.metrics[-2:])
    head = ["variant", "seeds", metrics, "difference, seed by seed", "against"]
    return [f"Each addition's gain, test, {metrics}:", table(head, lines)]


def _record(dataset: Dataset, system: str) -> str:
    # one record a data set: it stands once, beside RecGPT
    if system != "recgpt" or not dataset.record:
        return EMPTY
    return f"{' / '.join(map(number, dataset.record['values']))} ({dataset.record['who']})"
