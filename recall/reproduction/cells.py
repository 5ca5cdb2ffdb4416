"""The rows that count, by cell of the table, and the published figures beside them.

A cell is the mean over the seeds, with the standard deviation of the sample. Its rows are those of one recipe and one
preparation of the data: the ones measured last. Quick tries (max_epochs) and studies are no cells.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from recall.reproduction.results import Row, latest

PUBLISHED = Path(__file__).with_name("published.yaml")
NOT_RUN, EMPTY = "not run", ""
RECIPES, ABLATION = ("paper", "best"), "ablation"


@dataclass(frozen=True)
class Dataset:
    """The published figures of one data set, and the metrics and splits of ours that stand beside them."""

    name: str
    title: str
    metrics: Sequence[str]
    splits: Sequence[str] = ("test",)
    paper: Mapping[str, Sequence[float]] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """A section of the ablation: its label in the table, and the section it differs from in one thing."""

    label: str
    against: str | None = None


@dataclass(frozen=True)
class Published:
    """The file of published figures."""

    paper: str
    systems: Mapping[str, str]  # name -> label in the table
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
        """The different values, in order of their first row."""
        return ", ".join(dict.fromkeys(value for value in values if value))


@dataclass(frozen=True)
class ResultsTable:
    """The rows that count, by cell."""

    rows: Sequence[Row]

    @cached_property
    def cells(self) -> dict[tuple[str, str, str, str], Cell]:
        grouped: dict[tuple[str, str, str, str], list[Row]] = {}
        for row in self.rows:
            if row.max_epochs is None and row.study is None:
                grouped.setdefault((row.dataset, row.system, row.recipe, row.split), []).append(row)
        return {key: Cell(latest(rows)) for key, rows in grouped.items()}

    def cell(self, dataset: str, system: str, recipe: str, split: str) -> Cell:
        return self.cells.get((dataset, system, recipe, split), Cell(()))


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in rows)


def number(value: float) -> str:
    """Writes .0440, the field's way."""
    return f"{value:.4f}".removeprefix("0")
