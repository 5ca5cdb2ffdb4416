"""Ids and signals: types, checks, missing values; columns of typed files."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import ids
from model.logs.events import DataError
from model.logs.missing import NULL_WORDS
from model.logs.readers import read_log
from model.logs.values import Collector, RawPart, as_plain, check_ids


def parse(**columns):
    """One event per value given; the columns not named hold good values."""
    height = len(next(iter(columns.values())))
    whole = {name: columns.get(name, ["1"] * height) for name in ("user", "item", "time")} | columns
    frame = pl.DataFrame(
        {"line": range(2, height + 2), **whole},
        schema_overrides={name: pl.String for name, values in whole.items() if not isinstance(values, pl.Series)},
    )
    collector = Collector()
    collector.add(RawPart(frame))
    return collector.finish()


def reasons(**columns):
    return [str(row) for row in parse(**columns)[1].first_bad]


def test_integer_ids_become_int64():
    log, report = parse(user=["-3", "9223372036854775807"])
    assert (log.users.dtype, log.users.to_list()) == (pl.Int64, [-3, 2**63 - 1])
    assert "user ids: 64-bit integers" in report.notes


@pytest.mark.parametrize("other", ["a", "07", "+7", "9223372036854775808", "7.0", "-0"])
def test_an_id_that_is_no_plain_integer_makes_all_of_them_text_and_is_named(other):
    log, report = parse(item=["7", other])
    assert log.items.to_list() == ["7", other]
    assert any(f"1 of 2 are no plain integers (line 3: {other})" in note for note in report.notes)


def test_the_type_is_decided_by_all_parts():
    collector = Collector()
    for line, item in ((2, "7"), (9, "x")):
        collector.add(RawPart(pl.DataFrame({"line": [line], "user": ["1"], "item": [item], "time": ["1"]})))
    log, report = collector.finish()
    assert log.items.to_list() == ["7", "x"]
    assert any("(line 9: x)" in note for note in report.notes)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1))
def test_different_ids_stay_different(texts):
    checked = check_ids("item", pl.Series(texts, dtype=pl.String))
    kept = checked.values if checked.reason is None else checked.values.filter(checked.reason.is_null())
    usable = {text.strip() for text in texts} if checked.reason is None else None
    assert usable is None or kept.n_unique() == len(usable)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_every_64_bit_integer_survives(integers):
    assert check_ids("item", pl.Series([str(value) for value in integers])).values.to_list() == integers


@given(st.text(max_size=4) | st.integers(-(2**64), 2**64).map(str))
def test_files_and_requests_agree_on_what_an_integer_is(text):
    values = check_ids("item", pl.Series([text])).values
    assert (values.dtype == pl.Int64 and values[0] is not None) == (ids.as_integer(text.strip()) is not None)


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_empty_id_is_bad(empty):
    assert reasons(item=["a", empty]) == ["line 3: item id is empty"]


@pytest.mark.parametrize("word", NULL_WORDS)
def test_a_null_word_is_a_missing_value_and_decides_no_type(word):
    log, report = parse(item=["7", word, "8"], like=["1", word, "0"], time=["5", word, "6"])
    assert log.frame.select("item", "time", "like").rows() == [(7, 5, 1.0), (8, 6, 0.0)]
    assert [str(bad) for bad in report.first_bad] == [f"line 3: item id is missing: {word}"]


def test_a_null_word_in_a_signal_is_not_recorded():
    log, report = parse(play_time_ms=["12.5", "NaN", "NULL", "", None])
    assert log.frame["play_time_ms"].to_list() == [12.5, None, None, None, None]
    assert report.rows_bad == 0


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("a\ufffd", "not UTF-8"),
        ("a\0", "holds a control character"),
        ("a\tb", "holds a control character"),
        ("a\x1b[1mb", "holds a control character"),
        ("x" * (ids.MAX_CHARACTERS + 1), "longer than 128"),
    ],
)
def test_unusable_id_is_bad(broken, reason):
    (message,) = reasons(user=["a", broken])
    assert message.startswith("line 3: user id")
    assert reason in message


def test_an_id_of_128_characters_is_good():
    assert parse(item=["ü" * ids.MAX_CHARACTERS])[1].rows_bad == 0


def test_reasons_are_counted_by_kind():
    report = parse(item=["a", "", "", "NULL"], time=["x", "1", "1", "1"])[1]
    assert dict(report.reasons) == {"time is not a number": 1, "item id is empty": 2, "item id is missing": 1}


def test_reactions_may_be_words():
    assert parse(like=["true", "False", "1"])[0].frame["like"].to_list() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(("value", "reason"), [("-5", "negative or infinite: -5"), ("inf", "infinite"), ("x", "no")])
def test_broken_signal_is_bad(value, reason):
    (message,) = reasons(duration_ms=["5", value])
    assert message.startswith("line 3: duration_ms is")
    assert reason in message


# --- columns of typed files

MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
IDS_OF_7 = {
    "Int8": pl.Series([7], dtype=pl.Int8),
    "UInt64": pl.Series([7], dtype=pl.UInt64),
    "Int128": pl.Series([7], dtype=pl.Int128),
    "Float32": pl.Series([7.0], dtype=pl.Float32),
    "Float64": pl.Series([7.0]),
    "Decimal": pl.Series([Decimal(7)], dtype=pl.Decimal(20, 0)),
    "String": pl.Series(["7"]),
    "Binary": pl.Series([b"7"]),
    "Categorical": pl.Series(["7"], dtype=pl.Categorical),
    "Enum": pl.Series(["7"], dtype=pl.Enum(["7"])),
}


@pytest.mark.parametrize("kind", IDS_OF_7)
def test_an_integer_id_of_any_type_is_the_integer(write_parquet, kind):
    path = write_parquet(user=IDS_OF_7[kind], item=[1], time=[1])
    assert read_log([path])[0].users.to_list() == [7]


TIMES = {
    "Int32": pl.Series([1_704_067_200], dtype=pl.Int32),
    "UInt64": pl.Series([1_704_067_200], dtype=pl.UInt64),
    "Float64": pl.Series([1_704_067_200.0]),
    "Decimal": pl.Series([Decimal("1704067200.00")], dtype=pl.Decimal(20, 2)),
    "String": pl.Series(["1704067200"]),
}


@pytest.mark.parametrize("kind", TIMES)
def test_a_number_of_any_type_is_a_time(write_parquet, kind):
    log, _ = read_log([write_parquet(user=[1], item=[1], time=TIMES[kind])])
    assert (log.times.to_list(), log.unit) == ([1_704_067_200], "s")


@pytest.mark.parametrize(
    "moment",
    [
        pl.Series([MOMENT.date()]),
        pl.Series([MOMENT.replace(tzinfo=None)], dtype=pl.Datetime("ms")),
        pl.Series([MOMENT.replace(tzinfo=None)], dtype=pl.Datetime("ns")),
        pl.Series([MOMENT]).dt.convert_time_zone("Asia/Shanghai"),
        pl.Series(["2024-01-01"]),
    ],
    ids=lambda series: str(series.dtype),
)
def test_a_date_of_any_type_is_a_time(write_parquet, moment):
    log, _ = read_log([write_parquet(user=[1], item=[1], time=moment)])
    assert (log.times.to_list(), log.unit) == ([1_704_067_200_000], "ms")


@pytest.mark.parametrize(
    ("name", "column", "kind"),
    [
        ("item", pl.Series([[1]]), "a list"),
        ("item", pl.Series([{"a": 1}]), "Struct"),
        ("user", pl.Series([True]), "Boolean"),
        ("user", pl.Series([date(2024, 1, 1)]), "Date"),
        ("time", pl.Series([timedelta(1)]), "Duration"),
        ("time", pl.Series([True]), "Boolean"),
        ("like", pl.Series([MOMENT]), "Datetime"),
    ],
    ids=str,
)
def test_a_type_that_cannot_be_meant_is_one_sentence(write_parquet, name, column, kind):
    columns = {"user": [1], "item": [1], "time": [1]} | {name: column}
    with pytest.raises(DataError, match=rf"column {name} holds {kind}.*, which is no") as refusal:
        read_log([write_parquet(**columns)])
    assert "\n" not in str(refusal.value)


def test_bytes_that_are_no_text_are_named(write_parquet):
    _, report = read_log([write_parquet(user=[b"a", b"\xff"], item=[1, 2], time=[1, 2])])
    assert [str(bad) for bad in report.first_bad] == ["line 2: user id is not UTF-8"]


def test_a_column_of_nothing_is_missing(write_parquet):
    _, report = read_log([write_parquet(user=[1], item=pl.Series([None]), time=[1])])
    assert [str(bad) for bad in report.first_bad] == ["line 1: item id is empty"]


def test_large_float_ids_stay_text():
    assert as_plain(pl.Series("item", [1e30, None, float("nan")]), "item", "x").dtype == pl.String


def test_a_text_in_a_row_that_is_left_out_decides_no_type(read):
    events, report = read("user,item,time\n1,2,3\nx,y,never\n")
    assert events == [(1, 2, 3)]
    assert {"user ids: 64-bit integers", "item ids: 64-bit integers"} <= {*report.notes}
