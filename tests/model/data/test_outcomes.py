"""Marks of events follow them through the split, to the disk and back, and into a refit."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from model.data.marks import Marks
from model.data.outcomes import describe_outcomes, mark_outcomes, read_outcomes
from model.data.prepare import PrepareOptions, prepare
from model.data.sequences import SequenceData
from model.logs.events import DataError, EventLog

WORDS = ("like", "watch:0.5")


def log(**columns):
    """Two users whose events come in turn; the newest three of each."""
    frame = {"user": [1, 2] * 5, "item": list(range(10)), "time": list(range(10))}
    return EventLog(pl.DataFrame(frame | columns))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "views.csv"
    lines = [f"{n % 2},{n},{n},{int(n in (0, 3, 6, 9))},{n},10" for n in range(10)]
    path.write_text("\n".join(["user,item,time,like,play_time_ms,duration_ms", *lines, ""]))
    return prepare(PrepareOptions("csv", path, outcomes=read_outcomes(WORDS)))[0]


def marked(data, outcome):
    """The external items of each part that are marked."""
    parts = zip((data.train, data.valid, data.test), data.outcomes[outcome], strict=True)
    return [data.catalogue.items.external(part.values[flags].tolist()) for part, flags in parts]


def test_marks_stand_with_their_events(data):
    assert marked(data, "like") == [[0, 3], [6], [9]]
    assert marked(data, "long_view") == [[5], [6, 7], [8, 9]]


def test_marks_are_no_part_of_what_makes_two_runs_comparable(data):
    assert replace(data, outcomes={}).digest == data.digest


def test_marks_are_saved(data, tmp_path):
    data.save(tmp_path / "prepared")
    read = SequenceData.load(tmp_path / "prepared")
    assert [*read.outcomes] == [*data.outcomes]
    assert all(marked(read, name) == marked(data, name) for name in data.outcomes)


def test_all_in_train_keeps_them_beside_their_events(data):
    merged = data.all_in_train()
    assert marked(merged, "like") == [[0, 6, 3, 9], [], []]


def test_targets_that_ended_with_an_outcome_leave_the_histories(data):
    liked = data.ended_with("like", "test")
    assert liked.users_with_targets("test").tolist() == [2]
    assert liked.history(1, "test").tolist() == data.history(1, "test").tolist()
    assert data.ended_with("like", "valid").users_with_targets("valid").tolist() == [1]


def test_marks_of_other_events_are_refused(data):
    short = Marks(*(np.zeros(1, dtype=np.bool_) for _ in range(3)))
    with pytest.raises(ValueError, match="the marks of like are not those of the events"):
        SequenceData("d", data.catalogue, data.train, data.valid, data.test, data.protocol, outcomes={"like": short})


def test_outcomes_are_words_of_the_positive_rule():
    assert [*read_outcomes(WORDS)] == ["like", "long_view"]
    with pytest.raises(ValueError, match="unknown reactions"):
        read_outcomes(["love"])
    with pytest.raises(ValueError, match="the outcome long_view is told twice"):
        read_outcomes(["watch:0.5", "watch:0.9"])


def test_a_log_without_the_signal_or_the_event_is_refused():
    with pytest.raises(DataError, match="the outcome like needs like; the log has no signal"):
        mark_outcomes(log(), read_outcomes(["like"]))
    with pytest.raises(DataError, match="no positive event ended with the outcome like"):
        mark_outcomes(log(like=[0.0, None] * 5), read_outcomes(["like"]))


def test_a_report_counts_them(data):
    assert describe_outcomes(data.outcomes)[0] == "outcome like: 2 of 6 training events"
