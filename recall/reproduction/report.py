"""docs/results.md from the rows: published figures and ours side by side, each of ours with the command that gives it.

A cell is the mean over the seeds, with the standard deviation of the sample. Its rows are those of one recipe and one
preparation of the data: the ones measured last. Quick tries (max_epochs) and studies are no cells.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from recall.reproduction import figures
from recall.reproduction.results import Row, latest
from recall.reproduction.runner import systems_of

PUBLISHED = Path(__file__).with_name("published.yaml")
NOT_RUN, EMPTY = "not run", ""
RECIPES, ABLATION = ("paper", "best"), "ablation"
FIGURES = "figures"  # folder beside the page


@dataclass(frozen=True)
class Dataset:
    """What is printed of one data set, and what of ours is compared with it."""

    name: str
    title: str
    metrics: Sequence[str]
    splits: Sequence[str] = ("test",)
    paper: Mapping[str, Sequence[float]] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """A section of the ablation: how the table calls it, and the section it differs from in one thing."""

    label: str
    against: str | None = None


@dataclass(frozen=True)
class Published:
    paper: str
    systems: Mapping[str, str]  # name -> how the table calls it
    datasets: Sequence[Dataset]
    ablation: Mapping[str, Variant] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path = PUBLISHED) -> "Published":
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        datasets = [Dataset(name, **facts) for name, facts in content["datasets"].items()]
        ablation = {name: Variant(**facts) for name, facts in content["ablation"].items()}
        return cls(content["paper"], content["systems"], datasets, ablation)


@dataclass(frozen=True)
class Cell:
    """The rows of one system, recipe and split: one a seed."""

    rows: Sequence[Row]

    def show(self, metrics: Sequence[str]) -> str:
        return " / ".join(self._metric(name) for name in metrics) if self.rows else NOT_RUN

    def _metric(self, name: str) -> str:
        values = [row.metrics[name] for row in self.rows if name in row.metrics]
        if not values:
            return NOT_RUN
        spread = f"±{number(statistics.stdev(values))}" if len(values) > 1 else ""
        return number(statistics.mean(values)) + spread

    def difference(self, other: "Cell", name: str) -> str:
        """+.0012±.0003 over the seeds of both, in units of the metric."""
        theirs = {row.seed: row.metrics[name] for row in other.rows}
        values = [row.metrics[name] - theirs[row.seed] for row in self.rows if row.seed in theirs]
        if not values:
            return EMPTY
        mean = statistics.mean(values)
        spread = f"±{number(statistics.stdev(values))}" if len(values) > 1 else ""
        return f"{'-' if mean < 0 else '+'}{number(abs(mean))}{spread}"

    def mean(self, name: str) -> str:
        values = [getattr(row, name) for row in self.rows if getattr(row, name) is not None]
        return f"{statistics.mean(values):,.0f}" if values else EMPTY

    def each(self, values: Iterable[str | None]) -> str:
        """Different values, in order of their first row."""
        return ", ".join(dict.fromkeys(value for value in values if value))


@dataclass(frozen=True)
class ResultsTable:
    """The rows that count, by cell."""

    rows: Sequence[Row]

    @cached_property
    def cells(self) -> dict[tuple[str, str, str, str], Cell]:
        found: dict[tuple[str, str, str, str], list[Row]] = {}
        for row in self.rows:
            if row.max_epochs is None and row.study is None:
                found.setdefault((row.dataset, row.system, row.recipe, row.split), []).append(row)
        return {key: Cell(latest(rows)) for key, rows in found.items()}

    def cell(self, dataset: str, system: str, recipe: str, split: str) -> Cell:
        return self.cells.get((dataset, system, recipe, split), Cell(()))


def render(rows: Sequence[Row], published: Published | None = None) -> str:
    """The whole page."""
    published = published or Published.load()
    book = ResultsTable(rows)
    sections = [_section(book, dataset, published) for dataset in published.datasets]
    return "\n\n".join([HEAD.format(paper=published.paper), *sections, *_pictures(rows)]) + "\n"


HEAD = """# Results

Written by `recall reproduce` from [quality.json](../benchmarks/results/quality.json); `make check` fails when the two
differ. Paper: {paper}. Record: the best published figures on the same files from item ids alone.
Ours, `paper`: the paper's settings and loss, but for what the head of that part of
[beauty.yaml](../model/recipes/beauty.yaml) names; ours, `best`: the recipe of this project, chosen on
validation. A figure is the mean over the seeds ± the standard deviation of the sample; without ± there is one seed. A
cell is empty where the paper has no figure or the recipe no such system. Every command runs in the folder of the
checkout with the data in `../shared/data`, and skips what quality.json has already."""


def _pictures(rows: Sequence[Row]) -> list[str]:
    shown = [f"![{figure.title}]({FIGURES}/{figure.name}.png)" for figure in figures.available(rows)]
    return ["## Figures", *shown] if shown else []


def _section(book: ResultsTable, dataset: Dataset, published: Published) -> str:
    parts = [f"## {dataset.title}"]
    if dataset.note:
        parts.append(dataset.note)
    for split in dataset.splits:
        parts.append(f"{split.capitalize()}: {' / '.join(dataset.metrics)}")
        parts.append(_figures(book, dataset, published, split))
    parts.append(_commands(book, dataset, published))
    parts += _ablation(book, dataset, published)
    return "\n\n".join(parts)


def _figures(book: ResultsTable, dataset: Dataset, published: Published, split: str) -> str:
    planned = {recipe: _planned(dataset, recipe) for recipe in RECIPES}
    head, lines = ["system", "paper", "ours, `paper`", "ours, `best`", "record"], []
    for system, label in published.systems.items():
        cells = {recipe: book.cell(dataset.name, system, recipe, split) for recipe in RECIPES}
        ours = [
            cell.show(dataset.metrics) if cell.rows or system in planned[recipe] else EMPTY
            for recipe, cell in cells.items()
        ]
        printed = dataset.paper.get(system, [])
        lines.append([label, " / ".join(map(number, printed)), *ours, _record(dataset, system)])
    # a column in which nothing stands and nothing is missing is left out
    kept = [column for column in range(len(head)) if any(line[column] for line in lines)]
    head, *lines = [[line[column] for column in kept] for line in (head, *lines)]
    return table(head, lines)


def _planned(dataset: Dataset, recipe: str) -> set[str]:
    """Systems whose cell has to have figures."""
    planned = set(systems_of(dataset.name, recipe))
    # the paper's settings are run to be set against its figures
    return planned & {*dataset.paper} if recipe == "paper" else planned


def _ablation(book: ResultsTable, dataset: Dataset, published: Published) -> list[str]:
    """Variants that were run, each with its mean difference to another over the seeds that both have."""
    lines = []
    for name, variant in published.ablation.items():
        cell = book.cell(dataset.name, name, ABLATION, "test")
        if cell.rows:
            base = book.cell(dataset.name, variant.against or "", ABLATION, "test")
            against = published.ablation[variant.against].label if variant.against else EMPTY
            differences = [cell.difference(base, metric) for metric in dataset.metrics[-2:]] if base.rows else []
            lines.append(
                [variant.label, str(len(cell.rows)), cell.show(dataset.metrics[-2:]), " / ".join(differences), against]
            )
    if not lines:
        return []
    ran = f"recall reproduce --data ../shared/data --datasets {dataset.name} --recipe {ABLATION}"
    metrics = " / ".join(dataset.metrics[-2:])
    head = ["variant", "seeds", metrics, "difference, seed by seed", "against"]
    return [f"What each addition gains, test, {metrics} (`{ran}`):", table(head, lines)]


def _record(dataset: Dataset, system: str) -> str:
    # one record a data set: it stands once, beside RecGPT
    if system != "recgpt" or not dataset.record:
        return EMPTY
    return f"{' / '.join(map(number, dataset.record['values']))} ({dataset.record['who']})"


def _commands(book: ResultsTable, dataset: Dataset, published: Published) -> str:
    lines = [*_runs(book, dataset, published)]
    head = ["system", "recipe", "seeds", "epochs", "seconds", "machine", "date", "commit", "command"]
    return table(head, lines) if lines else "Nothing of this data set has been run yet."


def _runs(book: ResultsTable, dataset: Dataset, published: Published) -> Iterator[list[str]]:
    for system, label in published.systems.items():
        for recipe in RECIPES:
            # one run measures all splits, so the first of them knows the command
            cell = book.cell(dataset.name, system, recipe, dataset.splits[0])
            if cell.rows:
                machines = cell.each(row.machine for row in cell.rows)
                dates = cell.each(row.date for row in cell.rows)
                commits = cell.each(row.versions.get("commit") for row in cell.rows)
                epochs, seconds, seeds = cell.mean("epochs"), cell.mean("seconds"), str(len(cell.rows))
                made = f"`{command(dataset.name, cell.rows)}`"
                yield [label, recipe, seeds, epochs, seconds, machines, dates, commits, made]


def command(dataset: str, rows: Sequence[Row]) -> str:
    """What gives these rows."""
    # seeds are 0 .. N-1, and --seeds takes N
    seeds = 1 + max(row.seed for row in rows)
    what = f"--datasets {dataset} --systems {rows[0].system} --recipe {rows[0].recipe} --seeds {seeds}"
    return f"recall reproduce --data ../shared/data {what}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in rows)


def number(value: float) -> str:
    """.0440, as the field prints it."""
    return f"{value:.4f}".removeprefix("0")
