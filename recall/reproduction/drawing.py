"""The look of every figure: black and greys, a label at each line, legible when 600 pixels wide. Needs matplotlib.

Nothing is told by colour alone: lines differ in grey, dash and marker, so that a print reads like the screen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 6.0, 160  # inches; 960 pixels, read at 600
TEXT, SMALL = 10, 8.5  # points
FAINT = "0.6"
LEAST_RANGE = 0.1  # of its highest value, what an axis of quality spans
WIDE = 100  # times: of a log axis, where ticks at 2 and 5 would touch
LOOKS = (("0.0", "-", "o"), ("0.45", "--", "s"), ("0.0", ":", "^"), ("0.6", "-.", "D"))  # grey, dash, marker

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Canvas:
    """A figure and its panels, left to right and top to bottom."""

    figure: "Figure"
    panels: "Sequence[Axes]"

    def save(self, path: Path) -> Path:
        """Writes a PNG of 16 greys: a quarter of the size, and what is not legible so is seen at once."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = FigureCanvasAgg(self.figure)
        drawn.draw()  # type: ignore[no-untyped-call]
        # no date in it: the same rows give the same file
        pixels = np.asarray(drawn.buffer_rgba())  # type: ignore[no-untyped-call]
        Image.fromarray(pixels).convert("L").quantize(16).save(path, optimize=True)
        return path


def canvas(title: str, num_panels: int = 1, columns: int = 1, height: float = 3.0) -> Canvas:
    """An empty figure; `height` is a panel's, in inches."""
    from matplotlib.figure import Figure

    rows = -(-num_panels // columns)
    figure = Figure(dpi=DPI, figsize=(WIDTH, height * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in panels[num_panels:]:
        spare.set_axis_off()
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(which="both", labelsize=SMALL)
        panel.xaxis.label.set_size(SMALL)
        panel.yaxis.label.set_size(SMALL)
    figure.suptitle(title, fontsize=TEXT, fontweight="bold", x=0.01, ha="left")
    return Canvas(figure, list(panels[:num_panels]))


def draw_lines(panel: "Axes", series: Mapping[str, Sequence[Point]], log: str = "") -> None:
    """One line a name, its label at its last point; a single line is named by the title."""
    for number, points in enumerate(series.values()):
        x, y = zip(*points, strict=True)
        grey, dash, marker = LOOKS[number % len(LOOKS)]
        panel.plot(x, y, color=grey, linestyle=dash, marker=marker, markersize=4)
    plain_log(panel, *log)
    if len(series) > 1:
        label_column(panel, {name: points[-1] for name, points in series.items()})


def label_column(panel: "Axes", ends: Mapping[str, Point], strong: Sequence[str] = ()) -> None:
    """Names in a column right of the panel, each with a hair line to its point; none covers another."""
    if not ends:
        return
    panel.figure.draw_without_rendering()  # type: ignore[union-attr]  # no panel is in a part of a figure
    points = {name: panel.transAxes.inverted().transform(panel.transData.transform(end)) for name, end in ends.items()}
    gap = 1.25 * SMALL / 72 / (panel.get_window_extent().height / panel.figure.dpi)
    names = sorted(ends, key=lambda name: points[name][1])
    heights = spread([float(points[name][1]) for name in names], gap)
    for name, height in zip(names, heights, strict=True):
        panel.annotate(
            name,
            xy=ends[name],
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL,
            fontweight="bold" if name in strong else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": FAINT,
                "linewidth": 0.5,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def widen(panel: "Axes") -> None:
    """Has the axis of quality span a tenth of its highest value at least: noise shall not look like an effect."""
    low, high = panel.get_ylim()
    middle, reach = (low + high) / 2, max(high - low, LEAST_RANGE * abs(high)) / 2
    panel.set_ylim(middle - reach, middle + reach)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves ascending heights apart to at least `gap`, around where they were and within 0 and 1 where that fits."""
    placed: list[list[float]] = []  # groups of neighbours that touch
    for height in heights:
        placed.append([height])
        while len(placed) > 1 and _bottom(placed[-1], gap) < _bottom(placed[-2], gap) + len(placed[-2]) * gap:
            last = placed.pop()
            placed[-1] += last
    return [_bottom(group, gap) + place * gap for group in placed for place in range(len(group))]


def _bottom(group: Sequence[float], gap: float) -> float:
    """The lowest height of a group whose middle stays where its members' mean is."""
    reach = (len(group) - 1) * gap
    lowest = sum(group) / len(group) - reach / 2
    return max(0.0, min(lowest, 1.0 - reach)) if reach <= 1 else (1 - reach) / 2


def plain_log(panel: "Axes", *names: str) -> None:
    """Log axes with ticks at 1, 2 and 5, or at 1 alone over a wide range, and 2,000 in place of 2 x 10^3."""
    from matplotlib.ticker import LogLocator

    for name in names:
        panel.set(**{f"{name}scale": "log"})
        axis = panel.xaxis if name == "x" else panel.yaxis
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < WIDE * low else (1,)))
        axis.set_major_formatter("{x:,.10g}")
        axis.set_minor_formatter("")
