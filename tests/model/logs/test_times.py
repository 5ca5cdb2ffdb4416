"""Times: numbers and dates of any form at full resolution, zones, units that do not mix."""

from datetime import date
from decimal import Decimal

import polars as pl
import pytest

from model.logs.events import DataError
from model.logs.times import TimeReader, looks_like_time, to_time


def times(values, timezone=None, parts=1):
    """(times, unit, reasons) of values that come in so many parts."""
    reader, good, reasons = TimeReader(timezone), [], []
    for n in range(parts):
        raw = pl.Series(values[n::parts])
        line = pl.int_range(2, len(raw) + 2, eager=True)
        checked = reader.read(raw, line, "")
        reason = checked.reason if checked.reason is not None else pl.Series([None] * len(raw), dtype=pl.String)
        good.append(checked.values.filter(reason.is_null()))
        reasons += reason.drop_nulls().to_list()
    joined, unit, _ = reader.join(good)
    return joined.to_list(), unit, reasons


def test_nanoseconds_keep_every_digit():
    assert times(["1650816000000000001", "2"])[0] == [1650816000000000001, 2]


def test_a_whole_float_keeps_every_digit_of_all():
    assert times(["1700000000000000001", "1700000000000000005.0"])[0] == [1700000000000000001, 1700000000000000005]


def test_fractions_are_exact():
    assert times(["1304467200.123456789", "1304467200.123456788", "2"])[0] == [
        Decimal("1304467200.123456789"),
        Decimal("1304467200.123456788"),
        2,
    ]


@pytest.mark.parametrize(("text", "value"), [("1e9", 10**9), ("1.7E+09", 1_700_000_000), (" 7 ", 7), ("7.000", 7)])
def test_numbers_in_other_forms(text, value):
    assert times([text, "5"])[0] == [value, 5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("now", "time is not a number: now"),
        ("1_0", "time is not a number: 1_0"),
        ("2022-04-25", "time is not a number: 2022-04-25"),
        ("-1", "time is negative or infinite: -1"),
        ("inf", "time is negative or infinite: inf"),
        ("9223372036854775808", "time is too large: 9223372036854775808"),
        ("nan", "time is missing: nan"),
        ("", "time is empty"),
    ],
)
def test_bad_times_among_numbers(text, reason):
    assert times(["1", text, "2"]) == ([1, 2], None, [reason])


DATES = {
    "2024-01-01": 0,
    "2024-01-01 00:00": 0,
    "2024-01-01 00:00:01": 1000,
    "2024-01-01T00:00:01Z": 1000,
    "2024-01-01T00:00:01.250+00:00": 1250,
    "2024-01-01 02:00:00+0200": 0,
    "2023-12-31 19:00:00-05": 0,
    "2024/01/01 00:00:01": 1000,
    "2024-01-01 00:00:01,250": 1250,
    "2024-01-01 00:00:01 UTC": 1000,
    "Mon Jan 01 00:00:01 +0000 2024": 1000,
    "Mon Jan 01 08:00:01 +0800 2024": 1000,
}


@pytest.mark.parametrize("text", DATES)
def test_dates_in_many_forms(text):
    assert times([text])[:2] == ([1704067200000 + DATES[text]], "ms")


def test_dates_of_many_forms_in_one_column():
    assert times([*DATES])[0] == [1704067200000 + after for after in DATES.values()]


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("2024-01-01 00:00:00.000001", "us", 1704067200000001),
        ("2024-01-01 00:00:00.000000001", "ns", 1704067200000000001),
    ],
)
def test_the_unit_is_as_fine_as_the_finest_date(text, unit, value):
    assert times([text, "2024-01-01"], parts=2)[:2] == ([value, value - 1], unit)


def test_a_zone_counts_where_a_date_names_none():
    values, _, reasons = times(["2024-01-01 08:00:00", "2024-01-01 00:00:00Z"], "Asia/Shanghai")
    assert (values, reasons) == ([1704067200000, 1704067200000], [])


def test_a_time_that_a_clock_skips_is_bad_and_one_shown_twice_is_the_earlier():
    values, _, reasons = times(["2024-03-31 02:30:00", "2024-10-27 02:30:00"], "Europe/Berlin")
    assert reasons == ["time is not a date: 2024-03-31 02:30:00"]
    assert values == [1729989000000]


@pytest.mark.parametrize("text", ["2024-13-01", "2024-02-30 00:00:00", "9999-12-31", "0001-01-01", "12", "yesterday"])
def test_bad_dates_are_named(text):
    assert times(["2024-01-01", text, "2024-01-02"])[2] == [f"time is not a date: {text}"]


def test_a_far_year_does_not_wrap_around_in_nanoseconds():
    assert times(["2024-01-01 00:00:00.123456789", "9999-12-31 00:00:00"])[2] == [
        "time is not a date: 9999-12-31 00:00:00"
    ]


def test_an_unknown_zone_is_refused():
    with pytest.raises(DataError, match="unknown time zone Mars/Base"):
        TimeReader("Mars/Base")


@pytest.mark.parametrize("values", [["1", "2"], ["2024-01-01T00:00:00Z"]])
def test_a_zone_without_effect_is_refused(values):
    with pytest.raises(DataError, match="--timezone Asia/Shanghai has no effect"):
        times(values, "Asia/Shanghai")


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    ("values", "units"),
    [
        (
            ["1700000000", "1700000001000"],
            r"seconds \(line 2: 1700000000\) and milliseconds \(line \d: 1700000001000\)",
        ),
        (["1700000000000", "1700000001000000"], r"milliseconds \(.*\) and microseconds"),
        (["1700000000.5", "1700000000000000000"], r"seconds \(.*\) and nanoseconds"),
    ],
)
def test_mixed_units_are_refused_and_both_named(values, units, parts):
    with pytest.raises(DataError, match=f"the times mix {units}"):
        times(values, parts=parts)


def test_a_clock_that_runs_through_all_bands_is_no_mixture():
    assert times(["700000000", "5000000000", "700000000000"])[1] is None


def test_a_bad_time_is_no_unit():
    assert times(["1700000000", "1700000001", "-1700000000000"])[1] == "s"


def test_numbers_and_dates_in_one_log_are_told_apart():
    reader = TimeReader()
    reader.read(pl.Series(["1"]), pl.Series([2]), "a.csv")
    (reason,) = reader.read(pl.Series(["2024-01-01"]), pl.Series([2]), "b.csv").reason
    assert reason == "time is not a number: 2024-01-01"
    with pytest.raises(DataError, match=r"c.parquet has times as dates, and files before it as numbers"):
        reader.read(pl.Series([date(2024, 1, 1)]), pl.Series([1]), "c.parquet")


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("7", None, 7),
        ("1.5", None, Decimal("1.5")),
        ("2024-01-01", "s", 1704067200),
        ("2024-01-01 00:00:01", "ms", 1704067201000),
        ("2024-01-01T08:00:00+08:00", "ns", 1704067200 * 10**9),
    ],
)
def test_a_time_that_a_person_gives(text, unit, value):
    assert to_time(text, unit) == value


@pytest.mark.parametrize(
    ("text", "message"), [("soon", "neither a number nor a date"), ("2024-01-01", "no known unit")]
)
def test_a_time_that_cannot_be_meant(text, message):
    with pytest.raises(DataError, match=message):
        to_time(text, None)


def test_what_looks_like_a_time():
    assert [looks_like_time(text) for text in ("881250949", "2024-01-01", "5", "x", "4.5")] == [
        True,
        True,
        *[False] * 3,
    ]
