"""The event log and the account of reading."""

import polars as pl
import pytest

from model.logs.events import REPORTED_ROWS, BadRow, DataError, EventLog, ReadReport, shown


def frame(**columns):
    return pl.DataFrame({"user": [1, 2], "item": ["a", "b"], "time": [5, 6], **columns})


def test_log_shows_its_columns():
    log = EventLog(frame(like=[0.0, 1.0]))
    assert (log.users.to_list(), log.items.to_list(), log.times.to_list()) == ([1, 2], ["a", "b"], [5, 6])
    assert (len(log), log.signals) == (2, ("like",))


def test_log_without_time_is_refused():
    with pytest.raises(ValueError, match=r"needs the columns \['time'\]"):
        EventLog(frame().drop("time"))


def test_log_with_float_ids_is_refused():
    with pytest.raises(ValueError, match="item ids must be Int64 or String"):
        EventLog(frame(item=[1.0, 2.0]))


def test_report_counts_all_and_names_the_first():
    bad = [BadRow(line, "no") for line in range(100, 1, -1)]
    report = ReadReport.of(200, bad)
    assert (report.rows_bad, report.rows_kept) == (99, 101)
    assert [row.line for row in report.first_bad] == list(range(2, 2 + REPORTED_ROWS))


def test_a_piece_of_the_input_is_short_and_cannot_drive_a_terminal():
    assert shown("a\x1b[2Jb\ud800\n") == "a?[2Jb??"
    assert shown("x" * 99) == "x" * 60 + ".."
    assert str(BadRow(3, "time is not a number: \x1b[1m", "a.csv")) == "a.csv line 3: time is not a number: ?[1m"


def test_reasons_are_counted_without_what_differs_from_row_to_row():
    report = ReadReport.of(
        9, [BadRow(2, "time is not a number: x"), BadRow(3, "time is not a number: y"), BadRow(4, "no")]
    )
    assert report.reasons == (("time is not a number", 2), ("no", 1))


def test_too_many_bad_rows_are_an_error_that_names_them():
    report = ReadReport.of(100, [BadRow(7, "time is empty"), BadRow(9, "item id is empty")])
    with pytest.raises(DataError, match=r"2 of 100 rows are bad.*line 7: time is empty; line 9: item id is empty"):
        report.check("log.csv", 0.01)


def test_bad_rows_at_the_limit_are_accepted():
    ReadReport.of(100, [BadRow(7, "time is empty")]).check("log.csv", 0.01)


def test_report_without_a_good_row_is_an_error():
    with pytest.raises(DataError, match=r"log.csv holds no usable row \(line 2: no\)"):
        ReadReport.of(1, [BadRow(2, "no")]).check("log.csv", 1.0)
