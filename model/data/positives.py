"""Whole logs, filtered by the rule by which events count as positive. The default keeps every event."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from model.logs.events import DataError, EventLog
from model.positive import WATCH, PositiveRule


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
    kept = log.frame.filter(pl.any_horizontal(conditions(rule, log.signals)))
    if not kept.height:
        raise DataError(f"none of {len(log)} events is positive by {rule}; loosen the rule")
    return replace(log, frame=kept)


def conditions(rule: PositiveRule, signals: Sequence[str]) -> list[pl.Expr]:
    """One expression a condition of the rule, true or false for each event, over the columns of these signals."""
    conditions = [pl.col(name) > 0 for name in rule.any_of]
    if rule.min_watch_ratio is not None and "watch_ratio" in signals:
        conditions.append(pl.col("watch_ratio") >= rule.min_watch_ratio)
    if rule.min_watch_ratio is not None and set(WATCH) <= set(signals):
        # Multiplied out, a duration of 0 cannot divide; it says nothing about the watch.
        enough = pl.col("play_time_ms") >= rule.min_watch_ratio * pl.col("duration_ms")
        conditions.append(enough & (pl.col("duration_ms") > 0))
    # A null would make the whole disjunction null, and a null never passes a filter by accident.
    return [condition.fill_null(False) for condition in conditions]
