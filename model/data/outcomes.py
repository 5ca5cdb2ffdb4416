"""Outcomes of events: which positive events ended with a like, a follow, a long view. Marks beside the sequences.

An outcome is told by the words of the positive rule, one each: `like`, `watch:0.9` (named `long_view`). An event may
have several, or none; what is no positive event stands in no sequence, and its outcome counts nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from model.data.marks import Flags, Marks
from model.data.positives import conditions
from model.logs.events import DataError, EventLog
from model.positive import PositiveRule

LONG_VIEW = "long_view"
COLUMN = "outcome:"  # begins the names of a frame's columns of marks
Outcomes = Mapping[str, PositiveRule]


def read_outcomes(words: Sequence[str]) -> Outcomes:
    """From ["watch:0.9", "like"]. Raises ValueError for other words, and for one outcome told twice."""
    outcomes: dict[str, PositiveRule] = {}
    for word in words:
        rule = PositiveRule.parse([word])
        name = LONG_VIEW if rule.min_watch_ratio is not None else rule.any_of[0]
        if name in outcomes:
            raise ValueError(f"the outcome {name} is told twice")
        outcomes[name] = rule
    return outcomes


def mark_outcomes(log: EventLog, outcomes: Outcomes) -> EventLog:
    """The log with a column of marks for each outcome. Raises DataError where it lacks a signal or marks nothing."""
    columns = []
    for name, rule in outcomes.items():
        if missing := rule.missing(log.signals):
            raise DataError(
                f"the outcome {name} needs {', '.join(missing)}; the log has {', '.join(log.signals) or 'no signal'}"
            )
        columns.append(pl.any_horizontal(conditions(rule, log.signals)).alias(f"{COLUMN}{name}"))
    marked = log.frame.with_columns(columns)
    if empty := [name for name in outcomes if not marked[f"{COLUMN}{name}"].any()]:
        raise DataError(f"no positive event ended with the outcome {empty[0]}; leave it out")
    return replace(log, frame=marked)


def columns_of(frame: pl.DataFrame) -> list[str]:
    """The columns of marks."""
    return [name for name in frame.columns if name.startswith(COLUMN)]


def marks_of(frame: pl.DataFrame) -> dict[str, Flags]:
    """The marks of a frame's rows, by outcome."""
    return {name.removeprefix(COLUMN): frame[name].to_numpy().astype(np.bool_) for name in columns_of(frame)}


def describe_outcomes(outcomes: Mapping[str, Marks]) -> list[str]:
    """A sentence about each outcome."""
    return [
        f"outcome {name}: {int(marks.train.sum()):,} of {len(marks.train):,} training events"
        for name, marks in outcomes.items()
    ]
