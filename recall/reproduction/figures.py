"""The figures of docs/results.md, drawn from the rows; each exists only where its rows do. Needs the extra `plots`.

One panel a data set, one message a figure: its title, made of the figures it shows. Studies are on validation; quality
against cost is the table's own recipe `best`, on test.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recall.reproduction import drawing
from recall.reproduction.cells import Published, number
from recall.reproduction.drawing import Point
from recall.reproduction.results import Row, latest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = Mapping[str, Sequence[Point]]  # name -> points (x, y)
Panels = Mapping[str, Series]  # data set -> its series
MIN_SYSTEMS = 3  # fewer are no figure
METRICS = ("NDCG@10", "NDCG@50", "NDCG@5")
COST_DATASETS = ("beauty", "kuairand")  # the paper's protocol and the split by time; the tables have all
ARMS = ("recgpt", "comirec")  # drawn in black
FREE = 0.01  # share of the recall that counts as no loss


@dataclass(frozen=True)
class Figure:
    """Rows of one data set to series; the title says what the series show."""

    name: str
    title: Callable[[Panels], str]
    axes: tuple[str, str]
    series: Callable[[Sequence[Row]], Series]
    by_cost: bool = False  # points of systems in place of lines

    def panels(self, rows: Sequence[Row]) -> dict[str, Series]:
        """Data set -> its series, where there is something to draw."""
        # quick tries are never shown
        counted = [row for row in rows if row.max_epochs is None]
        names = dict.fromkeys(row.dataset for row in counted if not self.by_cost or row.dataset in COST_DATASETS)
        drawn = {name: self.series([row for row in counted if row.dataset == name]) for name in names}
        return {name: series for name, series in drawn.items() if series}


def by_prompts(rows: Sequence[Row]) -> Series:
    points = [(row.point["K"], main_metric(row)) for row in rows if row.study == "prompts"]
    return {"RecGPT": sorted(points)} if len(points) > 1 else {}


def by_quotas(rows: Sequence[Row]) -> Series:
    lines: dict[str, list[Point]] = {}
    for row in rows:
        if row.study == "quotas":
            # whole, as it is part of the metric's name
            length = int(row.point["m"] + row.point["n"])
            lines.setdefault(f"m + n = {length}", []).append((row.point["m"] / length, row.metrics[f"NDCG@{length}"]))
    return {name: sorted(points) for name, points in lines.items()}


def by_diversity(rows: Sequence[Row]) -> Series:
    chosen = [row for row in rows if row.study == "diversity"]
    points = [(row.metrics["Diversity@50"], row.metrics["Recall@50"]) for row in chosen]
    return {"ComiRec": sorted(points)} if points else {}


def by_training(rows: Sequence[Row]) -> Series:
    return _by_cost(rows, lambda row: row.seconds)


def by_serving(rows: Sequence[Row]) -> Series:
    return _by_cost(rows, _milliseconds)


def _milliseconds(row: Row) -> float | None:
    return 1000 * row.measure_seconds / row.num_users if row.measure_seconds and row.num_users else None


def _by_cost(rows: Sequence[Row], cost: Callable[[Row], float | None]) -> Series:
    """One point a system: means over the seeds of the recipe that was measured last."""
    chosen: dict[str, list[Row]] = {}
    for row in rows:
        # 0 seconds (no training) have no place on a log axis
        if row.study is None and row.recipe == "best" and row.split == "test" and cost(row):
            chosen.setdefault(row.system, []).append(row)
    points = {}
    for name, own in chosen.items():
        seeds = latest(own)
        mean_cost = statistics.mean(cost(row) or 0.0 for row in seeds)
        points[name] = [(mean_cost, statistics.mean(main_metric(row) for row in seeds))]
    return points if len(points) >= MIN_SYSTEMS else {}


def main_metric(row: Row) -> float:
    """The first of METRICS that a row has, else its first."""
    return row.metrics[next((name for name in METRICS if name in row.metrics), next(iter(row.metrics)))]


def title_of_range(what: str) -> Callable[[Panels], str]:
    """A title that says by how much a line rises and falls, at most."""

    def title(panels: Panels) -> str:
        lines = [[y for _, y in points] for series in panels.values() for points in series.values()]
        largest = max((max(line) - min(line)) / max(line) for line in lines)
        return f"{what} moves NDCG by {largest:.1%} at most"

    return title


def title_of_diversity(panels: Panels) -> str:
    points = [point for series in panels.values() for point in series["ComiRec"]]
    least, best = min(x for x, _ in points), max(y for _, y in points)
    free = max(x for x, y in points if y >= (1 - FREE) * best)
    return f"Diversity from {least:.2f} to {free:.2f} costs at most {FREE:.0%} of the recall; more costs more"


def title_of_cost(what: str) -> Callable[[Panels], str]:
    """A title that names the best system where it is the same in every panel."""

    def title(panels: Panels) -> str:
        best = {max(series, key=lambda name: series[name][0][1]) for series in panels.values()}
        return f"Quality against {what}" + (f": {_label(best.pop())} ranks best" if len(best) == 1 else "")

    return title


def _label(system: str) -> str:
    return Published.load().systems.get(system, system)


FIGURES = (
    Figure(
        "prompts",
        title_of_range("The number of generated items a position"),
        ("generated items a position (K)", "NDCG, validation"),
        by_prompts,
    ),
    Figure(
        "quotas",
        title_of_range("The share of the first step"),
        ("share of the first step, m / (m + n)", "NDCG, validation"),
        by_quotas,
    ),
    Figure("diversity", title_of_diversity, ("Diversity@50", "Recall@50, validation"), by_diversity),
    Figure(
        "training",
        title_of_cost("training time"),
        ("seconds of training (log)", "NDCG, test"),
        by_training,
        by_cost=True,
    ),
    Figure(
        "serving",
        title_of_cost("the cost of an answer"),
        ("ms a user, in batches (log)", "NDCG, test"),
        by_serving,
        by_cost=True,
    ),
)


def available(rows: Sequence[Row]) -> list[Figure]:
    return [figure for figure in FIGURES if figure.panels(rows)]


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes what is available as PNG; returns the files.

    Raises ImportError without matplotlib.
    """
    return [_draw_figure(figure, figure.panels(rows)).save(folder / f"{figure.name}.png") for figure in available(rows)]


def _draw_figure(figure: Figure, panels: Panels) -> drawing.Canvas:
    # a line of text for each name beside a panel, and what stands above and below it
    height = max(3.1, 0.15 * max(map(len, panels.values())) + 1.1) if figure.by_cost else 2.0
    canvas = drawing.canvas(figure.title(panels), len(panels), height=height)
    for panel, (dataset, series) in zip(canvas.panels, panels.items(), strict=True):
        panel.set_title(_title(dataset), fontsize=drawing.SMALL, loc="left")
        panel.set(xlabel=figure.axes[0], ylabel=figure.axes[1])
        if figure.by_cost:
            _draw_systems(panel, series)
        else:
            drawing.draw_lines(panel, series)
            drawing.widen(panel)
    return canvas


def _title(dataset: str) -> str:
    return next((known.title for known in Published.load().datasets if known.name == dataset), dataset)


def _draw_systems(panel: "Axes", series: Series) -> None:
    labels: dict[str, Point] = {}
    strong = []
    for name, [(cost, quality)] in series.items():
        grey, size = ("0.0", 6) if name in ARMS else ("0.55", 4)
        panel.plot(cost, quality, "o", color=grey, markersize=size)
        label = f"{_label(name)} {number(quality)}"
        labels[label] = (cost, quality)
        strong += [label] if name in ARMS else []
    drawing.plain_log(panel, "x")
    drawing.label_column(panel, labels, strong)
