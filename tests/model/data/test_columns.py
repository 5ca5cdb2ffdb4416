"""Column names, types of ids, checks of values."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.columns import MAX_ID_LENGTH, TextTable, infer_ids, plan_columns, to_log
from model.data.events import DataError


def parse(**columns):
    """One event per value given; the columns not named hold good values."""
    height = len(next(iter(columns.values())))
    whole = {name: columns.get(name, ["1"] * height) for name in ("user", "item", "time")} | columns
    return to_log(
        TextTable(
            pl.DataFrame({"line": range(2, height + 2), **whole}, schema_overrides=dict.fromkeys(whole, pl.String))
        )
    )


def reasons(**columns):
    return [str(row) for row in parse(**columns)[1].first_bad]


@pytest.mark.parametrize(
    "header",
    [
        ["user_id", "item_id", "timestamp"],
        ["uid", "iid", "ts"],
        ["UID", " video_id ", "time_ms"],
        ["user", "item", "time"],
    ],
)
def test_aliases_are_found(header):
    assert plan_columns(header, "x").positions == (("user", 0), ("item", 1), ("time", 2))


def test_missing_column_lists_wanted_and_found():
    with pytest.raises(
        DataError, match=r"x lacks a column \(wanted time: one of time, timestamp.*it has uid, iid, when"
    ):
        plan_columns(["uid", "iid", "when"], "x")


def test_other_columns_are_named_as_ignored():
    assert plan_columns(["user_id", "uid", "item", "time", "rating"], "x").ignored == ("uid", "rating")


def test_integer_ids_become_int64():
    log, _ = parse(user=["-3", "9223372036854775807"])
    assert (log.users.dtype, log.users.to_list()) == (pl.Int64, [-3, 2**63 - 1])


@pytest.mark.parametrize("other", ["a", "07", "+7", "9223372036854775808", "7.0", "-0"])
def test_one_id_that_is_no_plain_integer_makes_all_strings(other):
    log, _ = parse(item=["7", other])
    assert log.items.to_list() == ["7", other]


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1))
def test_different_ids_stay_different(ids):
    assert infer_ids(pl.Series(ids, dtype=pl.String)).n_unique() == len(set(ids))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_every_64_bit_integer_survives(ids):
    assert infer_ids(pl.Series([str(value) for value in ids])).to_list() == ids


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_empty_id_is_bad(empty):
    assert reasons(item=["a", empty]) == ["line 3: item id is empty"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [("a\ufffd", "not UTF-8"), ("a\0", "holds a NUL"), ("x" * (MAX_ID_LENGTH + 1), "longer than 256")],
)
def test_unusable_id_is_bad(broken, reason):
    (messages,) = reasons(user=["a", broken])
    assert messages.startswith("line 3: user id")
    assert reason in messages


@pytest.mark.parametrize("time", ["now", "nan", "1_0", "2022-04-25"])
def test_time_that_is_no_number_is_bad(time):
    assert reasons(time=[time, "5"]) == [f"line 2: time is not a number: {time}"]


@pytest.mark.parametrize("time", ["-1", "inf", "-inf"])
def test_time_out_of_range_is_bad(time):
    assert reasons(time=["5", time]) == [f"line 3: time is negative or infinite: {time}"]


def test_nanosecond_times_keep_every_digit():
    assert parse(time=["1650816000000000001", "2"])[0].times.to_list() == [1650816000000000001, 2]


def test_decimal_times_are_floats():
    assert parse(time=["1304467200.5", "2"])[0].times.to_list() == [1304467200.5, 2.0]


def test_absent_signal_is_null_and_not_bad():
    log, report = parse(play_time_ms=["12.5", "", None])
    assert log.frame["play_time_ms"].to_list() == [12.5, None, None]
    assert report.rows_bad == 0


def test_reactions_may_be_words():
    assert parse(like=["true", "False", "1"])[0].frame["like"].to_list() == [1.0, 0.0, 1.0]


def test_broken_signal_is_bad():
    assert reasons(duration_ms=["5", "-5"]) == ["line 3: duration_ms is negative or infinite: -5"]
