"""The rule by which events count as positive. The default keeps every event."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from model.logs.events import DataError, EventLog

WATCH = ("play_time_ms", "duration_ms")
REACTIONS = ("like", "follow", "share", "comment", "click")


@dataclass(frozen=True, slots=True)
class PositiveRule:
    """An event is positive when *any* named condition holds; with no condition every event is."""

    min_watch_ratio: float | None = None  # play time / duration, or the log's watch_ratio
    any_of: tuple[str, ...] = ()  # names of REACTIONS, each above 0

    def __post_init__(self) -> None:
        unknown = set(self.any_of) - set(REACTIONS)
        if unknown:
            raise DataError(f"unknown reactions {sorted(unknown)}; known are {', '.join(REACTIONS)}")
        if self.min_watch_ratio is not None and not 0 < self.min_watch_ratio < float("inf"):
            raise DataError(f"min_watch_ratio is {self.min_watch_ratio}; it must be above 0")

    @property
    def keeps_all(self) -> bool:
        return self.min_watch_ratio is None and not self.any_of

    def missing(self, signals: Sequence[str]) -> list[str]:
        """The signals of this rule that a log lacks; a watch_ratio stands for play time and duration."""
        watch = () if self.min_watch_ratio is None or "watch_ratio" in signals else WATCH
        return [name for name in (*watch, *self.any_of) if name not in signals]


def select_positives(log: EventLog, rule: PositiveRule) -> EventLog:
    """The positive events, in the log's order. A signal that was not recorded (null) never makes a positive.

    Raises DataError when the log lacks a signal of the rule, or has no positive event.
    """
    if rule.keeps_all:
        return log
    if missing := rule.missing(log.signals):
        raise DataError(
            f"the positive rule needs {', '.join(missing)}; the log has {', '.join(log.signals) or 'no signal'}"
        )
    kept = log.frame.filter(pl.any_horizontal(_conditions(rule, log.signals)))
    if not kept.height:
        raise DataError(f"none of {len(log)} events is positive by {rule}; loosen the rule")
    return replace(log, frame=kept)


def _conditions(rule: PositiveRule, signals: Sequence[str]) -> list[pl.Expr]:
    conditions = [pl.col(name) > 0 for name in rule.any_of]
    if rule.min_watch_ratio is not None and "watch_ratio" in signals:
        conditions.append(pl.col("watch_ratio") >= rule.min_watch_ratio)
    if rule.min_watch_ratio is not None and set(WATCH) <= set(signals):
        # Multiplied out, a duration of 0 cannot divide; it says nothing about the watch.
        enough = pl.col("play_time_ms") >= rule.min_watch_ratio * pl.col("duration_ms")
        conditions.append(enough & (pl.col("duration_ms") > 0))
    # A null would make the whole disjunction null, and a null never passes a filter by accident.
    return [condition.fill_null(False) for condition in conditions]
