"""The event log of a service as a log to train on: each action once, none of testers, hides are no positives."""

import polars as pl
import pytest

from model.data.prepare import PrepareOptions, prepare
from model.logs.events import DataError
from model.logs.feedback import read_feedback
from model.positive import PositiveRule

FEEDBACK = {
    **dict.fromkeys(("stream_id", "event_id", "user", "item", "action", "request_id"), pl.String),
    **dict.fromkeys(("ts_ms", "watch_time_ms", "duration_ms"), pl.Int64),
}


def action(user, item, ts_ms, name="play", **more):
    row = {"event_id": f"{user}-{item}-{ts_ms}-{name}", "user": user, "item": item, "action": name, "ts_ms": ts_ms}
    return dict.fromkeys(FEEDBACK) | row | more


@pytest.fixture
def write(tmp_path):
    """write(actions, forced): the folder of an event log that has them, in two files."""

    def run(actions, forced=()):
        rows = [row | {"stream_id": f"{number}-0"} for number, row in enumerate(actions, 9)]
        save(tmp_path, "feedback", rows, FEEDBACK)
        names = ("stream_id", "unit", "request_id")
        save(tmp_path, "forced", [{"stream_id": "1-0", **row} for row in forced], dict.fromkeys(names, pl.String))
        return tmp_path

    return run


def save(folder, table, rows, schema):
    for number, part in enumerate((rows[:2], rows[2:])):
        if part:
            day = folder / table / f"2026-11-2{number}"
            day.mkdir(parents=True, exist_ok=True)
            pl.DataFrame(part, schema=schema).write_parquet(day / f"{number}.parquet")


def events(folder):
    return read_feedback(folder)[0].frame.select("user", "item", "time").rows()


def test_actions_are_events_in_the_order_of_their_times(write):
    folder = write([action("b", "8", 30), action("a", "7", 20), action("a", "9", 10)])
    assert events(folder) == [("a", 9, 10), ("a", 7, 20), ("b", 8, 30)]


def test_an_event_that_was_delivered_twice_counts_once(write):
    assert len(events(write([action("a", "7", 1), action("a", "8", 2), action("a", "7", 1)]))) == 2


def test_consecutive_actions_on_an_item_are_one_event_with_the_signals_of_all(write):
    folder = write(
        [
            action("a", "7", 1, watch_time_ms=500, duration_ms=1000),
            action("a", "7", 2, "like"),
            action("a", "8", 3),
            action("a", "7", 4),
        ]
    )
    log, _ = read_feedback(folder)
    assert log.frame.select("item", "time", "play_time_ms", "duration_ms", "like", "share").rows() == [
        (7, 1, 500.0, 1000.0, 1.0, 0.0),
        (8, 3, None, None, 0.0, 0.0),
        (7, 4, None, None, 0.0, 0.0),
    ]


def test_hidden_items_are_no_events_and_that_is_said(write):
    folder = write([action("a", "7", 1), action("a", "8", 2, "hide"), action("a", "9", 3)])
    log, report = read_feedback(folder)
    assert log.items.to_list() == [7, 9]
    assert "left out: 1 hides" in report.notes


def test_testers_count_for_nothing(write):
    folder = write(
        [action("tester", "7", 1), action("a", "8", 2), action("a", "9", 3, request_id="r1"), action("b", "7", 4)],
        [{"unit": "tester", "request_id": "r0"}, {"unit": "", "request_id": "r1"}],
    )
    log, report = read_feedback(folder)
    assert log.frame.select("user", "item").rows() == [("a", 8), ("b", 7)]
    assert "left out: 2 of testers" in report.notes


def test_ids_of_text_stay_text(write):
    assert events(write([action("a", "007", 1), action("a", "7", 2)])) == [("a", "007", 1), ("a", "7", 2)]


def test_a_folder_without_feedback_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match="recall events consume"):
        read_feedback(tmp_path)


def test_prepare_reads_it_with_a_rule_for_positives(write):
    shown = {"watch_time_ms": 900, "duration_ms": 1000}
    actions = [action(user, str(item), 10 * item, **shown) for user in "ab" for item in range(4)]
    skipped = [action("a", "9", 100, watch_time_ms=1, duration_ms=1000)]
    folder = write([*actions, *skipped])
    data, _ = prepare(PrepareOptions(format="events", input=folder, positive=PositiveRule(0.5)))
    assert data.catalogue.items.ids.tolist() == [0, 1, 2, 3]
    assert (len(data.train.values), len(data.test.values)) == (4, 2)
