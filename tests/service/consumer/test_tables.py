"""Events as rows: what the service writes is read, what a later one adds is passed over, what is none is refused."""

import msgspec
import orjson
import polars as pl
import pytest

from service.consumer.tables import LISTS, TABLES
from service.events.streams import STREAMS
from service.experiments.exposure import Exposure, Interleaved, Shadowed, Shown
from service.experiments.feedback import Action, FeedbackEvent

SHARED = {"experiment": "e", "phase": "1", "unit": "u", "served": "recgpt", "bundle": "b", "ts_ms": 5}
EVENTS = {
    "exposures": Exposure(id="x", assigned="recgpt", reason="experiment", request_id="r", **SHARED),
    "forced": Exposure(id="x", assigned="recgpt", reason="forced", request_id="r", **SHARED),
    "shown": Shown(
        request_id="r", config="c", variation="0", share=0.1, items=(7, "seven"), scores=(0.5, 0.25), **SHARED
    ),
    "interleaved": Interleaved(
        request_id="r", config="c", teams=("a", "b"), picks=(0, 1), in_both=1, items=(7, "seven"), **SHARED
    ),
    "shadow": Shadowed(
        **{"request_id": "r", "config": "c", "variation": "0", "share": 0.1, "items": (7, "seven"), "asked": 2},
        **{"shadow": "comirec", "shadow_bundle": "d", "shadow_items": (7, "seven"), "shadow_scores": (0.5, 0.25)},
        shadow_took_ms=1.5,
        **SHARED,
    ),
    "feedback": FeedbackEvent(user="u", item=7, action=Action.LIKE, ts_ms=5),
}
BY_NAME = {table.name: table for table in TABLES}


def test_every_stream_has_one_table():
    assert sorted(table.stream for table in TABLES) == sorted(STREAMS)


def test_an_event_of_every_table_is_tried_here():
    assert EVENTS.keys() == BY_NAME.keys()


@pytest.mark.parametrize("name", EVENTS)
def test_what_the_service_writes_is_a_row_of_its_table(name):
    table = BY_NAME[name]
    row = table.decode("1-0", orjson.dumps(EVENTS[name]))
    frame = pl.DataFrame([row], schema=table.schema, orient="row")
    assert frame.row(0, named=True)["stream_id"] == "1-0"
    assert {*table.key} <= {*frame.columns}
    assert row.keys() == table.schema.keys()


@pytest.mark.parametrize("name", EVENTS)
def test_a_field_that_a_later_service_adds_is_passed_over(name):
    later = orjson.loads(orjson.dumps(EVENTS[name])) | {"tomorrow": {"deep": [1]}}
    assert "tomorrow" not in BY_NAME[name].decode("1-0", orjson.dumps(later))


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"ts_ms": "5"}', b"\xff\xfe"])
def test_what_is_no_event_is_a_decode_error(name, data):
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        BY_NAME[name].decode("1-0", data)


@pytest.mark.parametrize("name", EVENTS)
def test_a_time_is_a_number_and_no_text(name):
    wrong = orjson.loads(orjson.dumps(EVENTS[name])) | {"ts_ms": "5"}
    with pytest.raises(msgspec.DecodeError):
        BY_NAME[name].decode("1-0", orjson.dumps(wrong))


@pytest.mark.parametrize(
    ("name", "columns"), [("shown", {"items"}), ("interleaved", {"items"}), ("shadow", {"items", "shadow_items"})]
)
def test_items_are_text_since_a_column_has_one_type(name, columns):
    row = BY_NAME[name].decode("1-0", orjson.dumps(EVENTS[name]))
    assert {column: row[column] for column in LISTS & row.keys()} == {key: ["7", "seven"] for key in columns}
