"""The rule by which an event counts as positive: for training, and for the histories that a service keeps.

Knows events by their signals alone; whole logs are filtered by it in model/data/positives.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

WATCH = ("play_time_ms", "duration_ms")
CLICK, PLAY = "click", "play"
REACTIONS = ("like", "follow", "share", "comment", CLICK)
RATIO = "watch:"


@dataclass(frozen=True, slots=True)
class PositiveRule:
    """An event is positive when *any* named condition holds; with no condition every event is."""

    min_watch_ratio: float | None = None  # play time / duration, or the log's watch_ratio
    any_of: tuple[str, ...] = ()  # names of REACTIONS, each above 0

    def __post_init__(self) -> None:
        """Raises ValueError for a rule that cannot be."""
        unknown = set(self.any_of) - set(REACTIONS)
        if unknown:
            raise ValueError(f"unknown reactions {sorted(unknown)}; known are {', '.join(REACTIONS)}")
        if self.min_watch_ratio is not None and not 0 < self.min_watch_ratio < float("inf"):
            raise ValueError(f"min_watch_ratio is {self.min_watch_ratio}; it must be above 0")

    @classmethod
    def parse(cls, words: Sequence[str]) -> "PositiveRule":
        """From ["watch:0.5", "like"]. Raises ValueError for other words."""
        ratios = [word.removeprefix(RATIO) for word in words if word.startswith(RATIO)]
        if len(ratios) > 1 or not all(ratio.replace(".", "", 1).isdecimal() for ratio in ratios):
            raise ValueError("watch:RATIO may stand once, with a number such as watch:0.5")
        reactions = tuple(word for word in words if not word.startswith(RATIO))
        return cls(float(ratios[0]) if ratios else None, reactions)

    @property
    def words(self) -> list[str]:
        """The words that `parse` reads; none where every event is positive."""
        ratio = [] if self.min_watch_ratio is None else [f"{RATIO}{self.min_watch_ratio:g}"]
        return [*ratio, *self.any_of]

    @property
    def keeps_all(self) -> bool:
        return self.min_watch_ratio is None and not self.any_of

    def missing(self, signals: Sequence[str]) -> list[str]:
        """The signals of this rule that a log lacks; a watch_ratio stands for play time and duration."""
        watch = () if self.min_watch_ratio is None or "watch_ratio" in signals else WATCH
        return [name for name in (*watch, *self.any_of) if name not in signals]

    def counts(self, action: str, watch_time_ms: float | None, duration_ms: float | None) -> bool:
        """Says of one action of a user whether it is positive; a play is a click. What was not told makes none."""
        if self.keeps_all or action in self.any_of or (action == PLAY and CLICK in self.any_of):
            return True
        if self.min_watch_ratio is None or watch_time_ms is None or not duration_ms:
            return False
        return watch_time_ms >= self.min_watch_ratio * duration_ms


def write_rule(rule: PositiveRule | None) -> dict[str, Any] | None:
    """The rule as JSON; None where it is not known."""
    return asdict(rule) if rule else None


def read_rule(parts: Mapping[str, Any] | None) -> PositiveRule | None:
    """The rule from JSON. Raises ValueError or KeyError for what is none."""
    return PositiveRule(parts["min_watch_ratio"], tuple(parts["any_of"])) if parts else None
