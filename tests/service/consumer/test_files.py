"""The folder of the event log: one writer, one file a batch, nothing twice, and the oldest deleted."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from model.folders.files import FRESH
from service.consumer.files import EventFolder, parse_id, span_of
from service.consumer.tables import TABLES
from service.errors import ConfigurationError

TABLE = {table.name: table for table in TABLES}["feedback"]
DAY_MS = 86_400_000
NOW_MS = int(datetime.now(UTC).timestamp() * 1000)


def rows(*stream_ids):
    fields = {"event_id": "e", "user": "u", "item": "7", "action": "like", "request_id": None, "ts_ms": 5}
    return [{"stream_id": own} | fields | {"watch_time_ms": None, "duration_ms": None} for own in stream_ids]


@pytest.fixture
def folder(tmp_path):
    folder = EventFolder(tmp_path / "events")
    yield folder
    folder.close()


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "events").rglob("*.parquet"))


def test_ids_are_in_the_order_of_their_numbers_not_of_their_letters():
    assert parse_id("9-10") < parse_id("10-9")
    assert parse_id("10-9") < parse_id("10-10")


def test_a_file_is_named_by_its_day_and_its_ids(folder, tmp_path):
    folder.write(TABLE, rows("1795800000000-0", "1795800031234-7"))
    [path] = (tmp_path / "events").rglob("*.parquet")
    assert path.relative_to(tmp_path / "events").as_posix() == (
        "feedback/2026-11-27/1795800000000-0_1795800031234-7.parquet"
    )
    assert span_of(path) == ((1795800000000, 0), (1795800031234, 7))
    assert pl.read_parquet(path)["stream_id"].to_list() == ["1795800000000-0", "1795800031234-7"]


def test_what_is_in_a_file_is_known(folder):
    folder.write(TABLE, rows("5-0", "5-2", "9-0"))
    assert folder.written(TABLE, ["5-0", "5-1", "9-0", "9-1"]) == {"5-0", "9-0"}


def test_what_is_in_a_file_is_known_after_a_start(tmp_path):
    first = EventFolder(tmp_path / "events")
    first.write(TABLE, rows("5-0", "5-2", "9-0"))
    first.close()
    second = EventFolder(tmp_path / "events")
    assert second.written(TABLE, ["5-2", "7-0", "10-0"]) == {"5-2"}
    second.close()


def test_the_same_rows_are_the_same_file(folder, tmp_path):
    folder.write(TABLE, rows("5-0"))
    [before] = (path.read_bytes() for path in (tmp_path / "events").rglob("*.parquet"))
    folder.write(TABLE, rows("5-0"))
    assert [path.read_bytes() for path in (tmp_path / "events").rglob("*.parquet")] == [before]


def test_a_folder_has_one_writer(folder, tmp_path):
    with pytest.raises(ConfigurationError, match="is written by another consumer; stop that one"):
        EventFolder(tmp_path / "events")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written: Not a directory"):
        EventFolder(tmp_path / "file" / "events")


def test_what_a_kill_left_half_written_is_gone_at_the_next_start(tmp_path):
    half = tmp_path / "events" / "feedback" / "2026-11-27" / f".x.parquet.7{FRESH}"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"PAR1")
    EventFolder(tmp_path / "events").close()
    assert not half.exists()


def test_what_is_no_event_is_kept_with_its_reason(folder, tmp_path):
    folder.bury(TABLE, "5-0", b"\xff{", "not JSON")
    dead = json.loads((tmp_path / "events" / "dead" / "feedback" / "5-0.json").read_text())
    assert dead == {"stream_id": "5-0", "reason": "not JSON", "event": "\\xff{"}


def test_old_files_go_and_the_newest_stays_however_old(folder, tmp_path):
    for days in (30, 20, 10):
        folder.write(TABLE, rows(f"{NOW_MS - days * DAY_MS}-0"))
    gone = folder.expire(keep_days=5, keep_bytes=10**9)
    assert len(gone) == 2
    assert len(files(tmp_path)) == 1
    assert not gone[0].parent.exists()


def test_the_oldest_go_until_the_rest_fits(folder, tmp_path):
    for minutes in (3, 2, 1):
        folder.write(TABLE, rows(f"{NOW_MS - minutes * 60_000}-0"))
    size = next((tmp_path / "events").rglob("*.parquet")).stat().st_size
    assert len(folder.expire(keep_days=5, keep_bytes=10 * size)) == 0
    assert len(folder.expire(keep_days=5, keep_bytes=int(2.5 * size))) == 1
    assert len(folder.expire(keep_days=5, keep_bytes=0)) == 1
    assert len(files(tmp_path)) == 1
