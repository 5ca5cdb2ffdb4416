"""Places of marks on the page's charts, in percent of a chart's width and height. Knows no HTML and no colour.

Text is laid out by the browser and marks are stretched with the window, so that a chart is legible at any width.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

Interval = tuple[float, float]
CLIP = 4.0  # an interval this many times wider than the first row's is cut off at the chart's edge
LABEL_GAP = 9.0  # percent of a chart's height between two labels at the ends of lines


@dataclass(frozen=True, slots=True)
class Tick:
    at: float  # percent
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Values on a line of 0 to 100 percent."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """The place of a value; what lies beyond an end is at that end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self, show: Callable[[float], str], most: int = 6) -> list[Tick]:
        step = nice_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [Tick(self.at(number * step), show(number * step)) for number in range(first, last + 1)]


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def scale_of(values: Iterable[float]) -> Scale:
    """A scale that holds these values and 0, with a little room; of one value alone, around it."""
    known = [0.0, *(value for value in values if math.isfinite(value))]
    low, high = min(known), max(known)
    room = 0.06 * (high - low) or 1.0
    return Scale(low - room, high + room)


@dataclass(frozen=True, slots=True)
class Whiskers:
    """An estimate with both intervals, in percent; an end that the chart cannot hold is marked as cut."""

    at: float
    zero: float
    fixed: Interval
    wide: Interval
    cut_low: bool = False
    cut_high: bool = False
    limit: float | None = None  # a guard rail's tolerance


def whiskers_of(scale: Scale, estimate: float, fixed: Interval, wide: Interval, limit: float | None = None) -> Whiskers:
    return Whiskers(
        at=scale.at(estimate),
        zero=scale.at(0.0),
        fixed=(scale.at(fixed[0]), scale.at(fixed[1])),
        wide=(scale.at(wide[0]), scale.at(wide[1])),
        cut_low=wide[0] < scale.low,
        cut_high=wide[1] > scale.high,
        limit=None if limit is None else scale.at(limit),
    )


def forest_scale(intervals: Sequence[Interval]) -> Scale:
    """One scale for all rows, the first of which decides how far it goes: a rare metric must not flatten the others."""
    reach = [max(abs(bound) for bound in interval) for interval in intervals]
    limit = CLIP * reach[0] if reach[0] > 0 else math.inf
    bounds = [max(-limit, min(limit, bound)) for interval in intervals for bound in interval]
    return scale_of(bounds)


@dataclass(frozen=True, slots=True)
class Line:
    """A line, with its label at the right end; both in percent from the upper left corner."""

    points: tuple[tuple[float, float], ...]
    label: str
    figure: str
    label_at: float
    dash: str  # of the stroke: lines are told apart without colour


TIME_FORMS = ((3 * 86_400_000, "%d %b"), (86_400_000, "%d %b %H:%M"), (600_000, "%H:%M"), (-1, "%H:%M:%S"))
DASHES = ("", "7 4", "2 3", "10 3 2 3")


def lines_of(series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], x: Scale, y: Scale) -> list[Line]:
    """Lines of (label, figure at the end, points); labels that would meet are moved apart."""
    drawn = [[(x.at(a), round(100 - y.at(b), 2)) for a, b in points] for _, _, points in series]
    places = spread([points[-1][1] for points in drawn], LABEL_GAP)
    return [
        Line(tuple(points), label, figure, place, DASHES[number % len(DASHES)])
        for number, (points, (label, figure, _), place) in enumerate(zip(drawn, series, places, strict=True))
    ]


def spread(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved as little as keeps `gap` between neighbours and all of them within 0 to 100."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    for after, before in pairwise(order[::-1]):
        limit = 100.0 if after == order[-1] else moved[after]
        moved[after] = min(moved[after], limit)
        moved[before] = min(moved[before], moved[after] - gap)
    return [round(place, 2) for place in moved]


def band_of(lows: Sequence[tuple[float, float]], highs: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """The points of the polygon between two lines."""
    edge = [*lows, *reversed(highs)]
    return " ".join(f"{x.at(a)},{round(100 - y.at(b), 2)}" for a, b in edge)


def time_ticks(x: Scale, most: int = 4) -> list[Tick]:
    """Ticks of times in ms since 1970, UTC: by day, or finer where they would say the same."""
    span = x.high - x.low
    form = next(form for longer_ms, form in TIME_FORMS if span > longer_ms)
    moments = [x.low + span * (number + 0.5) / most for number in range(most)]
    return [Tick(x.at(moment), datetime.fromtimestamp(moment / 1e3, UTC).strftime(form)) for moment in moments]
