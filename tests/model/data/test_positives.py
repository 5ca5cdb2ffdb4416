"""The choice of events that are positive."""

import polars as pl
import pytest

from model.data.positives import select_positives
from model.logs.events import DataError, EventLog
from model.positive import PositiveRule

LOG = EventLog(
    pl.DataFrame(
        {
            "user": [1, 1, 1, 1],
            "item": [10, 20, 30, 40],
            "time": [0, 1, 2, 3],
            "play_time_ms": [5.0, 20.0, 9.0, None],
            "duration_ms": [10.0, 10.0, 0.0, 10.0],
            "like": [0.0, None, 1.0, 0.0],
        }
    )
)


def positives(**rule):
    return select_positives(LOG, PositiveRule(**rule)).items.to_list()


def test_default_keeps_every_event():
    assert select_positives(LOG, PositiveRule()) is LOG


def test_watch_ratio_includes_its_limit_and_never_an_unknown_duration():
    assert positives(min_watch_ratio=0.5) == [10, 20]


def test_reaction_counts_above_zero_and_null_is_none():
    assert positives(any_of=("like",)) == [30]


def test_any_condition_is_enough():
    assert positives(min_watch_ratio=2.0, any_of=("like",)) == [20, 30]


def test_a_watch_ratio_stands_for_play_time_and_duration():
    frame = LOG.frame.drop("play_time_ms", "duration_ms").with_columns(watch_ratio=pl.Series([0.4, 0.5, None, 2.0]))
    assert select_positives(EventLog(frame), PositiveRule(0.5)).items.to_list() == [20, 40]


def test_missing_signal_names_what_the_log_has():
    with pytest.raises(DataError, match="needs follow; the log has play_time_ms, duration_ms, like"):
        positives(any_of=("like", "follow"))


def test_rule_that_leaves_nothing_is_an_error():
    with pytest.raises(DataError, match="none of 4 events is positive"):
        positives(min_watch_ratio=5.0)


@pytest.mark.parametrize("rule", [{"any_of": ("love",)}, {"min_watch_ratio": 0.0}, {"min_watch_ratio": float("nan")}])
def test_impossible_rule_is_refused(rule):
    with pytest.raises(ValueError, match=r"unknown reactions|must be above 0"):
        PositiveRule(**rule)
