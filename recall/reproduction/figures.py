"""The figures of docs/results.md, drawn from the rows; each exists only where its rows do. Needs the extra `plots`.

One panel a data set. Studies are on validation; quality against cost is the table's own recipe `best`, on test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recall.reproduction.results import Row, latest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = Mapping[str, Sequence[tuple[float, float]]]  # name -> points (x, y)
MIN_SYSTEMS = 3  # fewer are no figure
MARKS, NUM_COLOURS = "osD", 10  # matplotlib's C0 to C9
LEAST_RANGE = 0.1  # of its highest value, what an axis of quality spans: noise shall not look like an effect
PANELS_A_ROW, LEGEND_INCHES = 3, 1.4
METRICS = ("NDCG@10", "NDCG@50", "NDCG@5")


@dataclass(frozen=True)
class Figure:
    """What is drawn: rows of one data set to series, and how the axes are called."""

    name: str
    title: str
    axes: tuple[str, str]
    series: Callable[[Sequence[Row]], Series]
    lines: bool = True
    log_x: bool = False

    def panels(self, rows: Sequence[Row]) -> dict[str, Series]:
        """Data set -> its series, where there is something to draw."""
        # quick tries are never shown
        counted = [row for row in rows if row.max_epochs is None]
        names = dict.fromkeys(row.dataset for row in counted)
        found = {name: self.series([row for row in counted if row.dataset == name]) for name in names}
        return {name: series for name, series in found.items() if series}


def by_prompts(rows: Sequence[Row]) -> Series:
    points = [(row.point["K"], main_metric(row)) for row in rows if row.study == "prompts"]
    return {"RecGPT": sorted(points)} if len(points) > 1 else {}


def by_quotas(rows: Sequence[Row]) -> Series:
    lines: dict[str, list[tuple[float, float]]] = {}
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
    chosen: dict[str, list[Row]] = {}
    for row in rows:
        # 0 seconds (no training) have no place on a log axis
        if row.study is None and row.recipe == "best" and row.split == "test" and cost(row):
            chosen.setdefault(row.system, []).append(row)
    # one point a seed, so that the spread is seen; none of a recipe that was changed since
    points = {name: [(cost(row) or 0.0, main_metric(row)) for row in latest(own)] for name, own in chosen.items()}
    return points if len(points) >= MIN_SYSTEMS else {}


def main_metric(row: Row) -> float:
    """The first of METRICS that a row has, else its first."""
    return row.metrics[next((name for name in METRICS if name in row.metrics), next(iter(row.metrics)))]


FIGURES = (
    Figure("prompts", "Generated items a position", ("K", "NDCG, validation"), by_prompts),
    Figure("quotas", "Share of the first step", ("m / (m + n)", "NDCG at m + n, validation"), by_quotas),
    Figure("diversity", "ComiRec, lambda from 0", ("Diversity@50", "Recall@50, validation"), by_diversity),
    Figure("training", "Quality and training time", ("seconds", "NDCG, test"), by_training, False, True),
    Figure(
        "serving", "Quality and cost of an answer", ("ms a user, in batches", "NDCG, test"), by_serving, False, True
    ),
)


def available(rows: Sequence[Row]) -> list[Figure]:
    return [figure for figure in FIGURES if figure.panels(rows)]


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes what is available as PNG; returns the files.

    Raises ImportError without matplotlib.
    """
    from matplotlib.figure import Figure as Canvas

    paths = []
    for figure in available(rows):
        panels = figure.panels(rows)
        num_rows = -(-len(panels) // PANELS_A_ROW)
        size = (4 * min(len(panels), PANELS_A_ROW) + LEGEND_INCHES, 3 * num_rows)
        canvas = Canvas(figsize=size, layout="constrained")
        grid = canvas.subplots(num_rows, min(len(panels), PANELS_A_ROW), squeeze=False).ravel()
        # a system looks the same in every panel, and one legend says how
        names = list(dict.fromkeys(name for series in panels.values() for name in series))
        for panel, (name, series) in zip(grid, panels.items(), strict=False):
            _draw_panel(panel, figure, series, names)
            panel.set_title(name)
        for spare in grid[len(panels) :]:
            spare.set_axis_off()
        shown = {label: mark for panel in grid for mark, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        canvas.legend(shown.values(), shown.keys(), fontsize=7, loc="outside right center")
        canvas.suptitle(figure.title)
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{figure.name}.png")
        # without a date in it, the same rows give the same file
        canvas.savefig(paths[-1], dpi=80, metadata={"Software": None})
    return paths


def _draw_panel(panel: "Axes", figure: Figure, series: Series, names: Sequence[str]) -> None:
    from matplotlib.ticker import LogLocator

    for name, points in series.items():
        number = names.index(name)
        x, y = zip(*points, strict=True)
        # ten colours, then another mark: no two series look alike
        mark, colour = MARKS[number // NUM_COLOURS % len(MARKS)], f"C{number % NUM_COLOURS}"
        panel.plot(x, y, f"{mark}-" if figure.lines else mark, color=colour, markersize=4, label=name)
    low, high = panel.get_ylim()
    middle, reach = (low + high) / 2, max(high - low, LEAST_RANGE * abs(high)) / 2
    panel.set_ylim(middle - reach, middle + reach)
    panel.set_xlabel(figure.axes[0])
    panel.set_ylabel(figure.axes[1])
    if figure.log_x:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:,g}")
        panel.xaxis.set_minor_formatter("")
