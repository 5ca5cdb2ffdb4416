"""Small logs that failed once, and what is right: each stands for a kind."""

from datetime import datetime, timedelta

import polars as pl
import pytest

from model.logs.events import DataError
from model.logs.readers import read_log

HEADER = "user_id,item_id,timestamp\n"


def test_lines_that_end_as_on_old_macs(read):
    assert read((HEADER + "1,1,1\n1,2,2\n").replace("\n", "\r"))[0] == [(1, 1, 1), (1, 2, 2)]


def test_an_id_that_no_request_could_send_is_refused_while_reading(read):
    events, report = read(HEADER + "1," + "v" * 149 + "0,0\n1,a\tb,1\n1,c,2\n")
    assert events == [(1, "c", 2)]
    assert [bad.reason for bad in report.first_bad] == [
        "item id is longer than 128 characters",
        "item id holds a control character",
    ]


def test_one_null_word_is_missing_and_the_ids_stay_integers(read):
    events, report = read(HEADER + "1,101,1\n1,102,2\n1,NULL,4\n")
    assert events == [(1, 101, 1), (1, 102, 2)]
    assert str(report.first_bad[0]) == "line 4: item id is missing: NULL"
    assert "item ids: 64-bit integers" in report.notes


def test_one_whole_float_among_nanoseconds_keeps_the_order(read):
    events, _ = read(HEADER + "1,b,1700000000000000001\n1,a,1700000000000000000\n2,z,1700000000000000005.0\n")
    assert sorted(events, key=lambda event: event[2]) == [
        (1, "a", 1700000000000000000),
        (1, "b", 1700000000000000001),
        (2, "z", 1700000000000000005),
    ]


def test_microseconds_keep_the_order(write_parquet):
    times = [datetime(2024, 1, 1, microsecond=3), datetime(2024, 1, 1, microsecond=1)]
    log, _ = read_log([write_parquet(user_id=[1, 1], item_id=["c", "a"], timestamp=times)])
    assert (log.times.to_list(), log.unit) == ([1704067200000003, 1704067200000001], "us")


def test_dates_with_and_without_a_zone(read):
    text = "1,a,2024-01-01 00:00:00\n1,b,2024-01-01T00:00:02Z\n"
    assert read(HEADER + text)[0] == [(1, "a", 1704067200000), (1, "b", 1704067202000)]
    assert read(HEADER + text, timezone="Asia/Shanghai")[0][0] == (1, "a", 1704038400000)


def test_a_semicolon_is_guessed_and_said(read):
    events, report = read("user_id;item_id;timestamp\n1;1;111\n1;2;112\n")
    assert events == [(1, 1, 111), (1, 2, 112)]
    assert "separator: semicolon" in report.notes


def test_a_header_written_for_people(read):
    assert read("User ID,Item ID,Time\n1,a,1\n")[0] == [(1, "a", 1)]


def test_mixed_units_are_refused_and_both_named(read):
    with pytest.raises(DataError, match=r"mix seconds \(line 2: 1700000000\) and milliseconds \(line 3: 1700000001000"):
        read(HEADER + "1,a,1700000000\n1,b,1700000001000\n")


def test_a_duration_is_one_sentence(write_parquet):
    with pytest.raises(DataError, match=r"log.parquet: column timestamp holds Duration.*, which is no time") as refusal:
        read_log([write_parquet(user_id=[1], item_id=[1], timestamp=pl.Series([timedelta(hours=1)]))])
    assert "\n" not in str(refusal.value)
