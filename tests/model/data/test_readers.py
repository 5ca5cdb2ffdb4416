"""Readers: each format gives the same log; a bad row is reported with its line."""

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.events import DataError
from model.data.readers import READERS, read_csv, read_parquet, read_recbole, read_s3rec

FIELD = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffd\ufeff"), max_size=6)


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="log.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def events(log):
    return log.frame.select("user", "item", "time").rows()


def bad(report):
    return [str(row) for row in report.first_bad]


def test_s3rec_line_is_a_user(write):
    log, report = read_s3rec(write("1 5 6\n2 6\n"))
    assert events(log) == [(1, 5, 0), (1, 6, 1), (2, 6, 0)]
    assert (report.rows_read, report.rows_bad) == (3, 0)


def test_s3rec_string_ids(write):
    log, _ = read_s3rec(write("u1 a b\nu2\tb  a\n"))
    assert events(log) == [("u1", "a", 0), ("u1", "b", 1), ("u2", "b", 0), ("u2", "a", 1)]


def test_s3rec_reports_bad_lines(write):
    log, report = read_s3rec(write(b"1 5\n\n2\n1 7\n3 a\xff 8\n"))
    assert bad(report) == [
        "line 2: the line is empty",
        "line 3: the user has no item",
        "line 4: user 1 has a line already: 1",
        "line 5: item id is not UTF-8",
    ]
    assert events(log) == [(1, 5, 0), (3, 8, 0)]


def test_recbole_header_carries_types(write):
    text = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t7\t5\t1.5\nv\t8\t1\t2\n"
    log, report = read_recbole(write(text, "x.inter"))
    assert events(log) == [("u", 7, 1.5), ("v", 8, 2.0)]
    assert report.ignored_columns == ("rating",)


def test_recbole_quotes_are_ordinary(write):
    log, _ = read_recbole(write('user_id:token\titem_id:token\ttimestamp:float\nu\t7"\t1\n'))
    assert events(log) == [("u", '7"', 1)]


def test_csv_lines_count_the_header(write):
    log, report = read_csv(write("uid,iid,ts\n1,2,3\n1,,3\n4,5\n4,5,x\n6,7,8,9\n\n7,8,9\n"))
    assert events(log) == [(1, 2, 3), (7, 8, 9)]
    assert bad(report) == [
        "line 3: item id is empty",
        "line 4: 2 fields; the header has 3",
        "line 5: time is not a number: x",
        "line 6: 4 fields; the header has 3",
        "line 7: the line is empty",
    ]


def test_csv_takes_bom_and_windows_lines(write):
    log, _ = read_csv(write(b"\xef\xbb\xbfuser,item,time\r\n1,2,3\r\n"))
    assert events(log) == [(1, 2, 3)]


def test_csv_quoted_fields(write):
    log, _ = read_csv(write('title,user,item,time\n"a, ""b""",1,"x,y",3\n'))
    assert events(log) == [(1, "x,y", 3)]


@pytest.mark.parametrize("line", ['"a,1,2,3', 'a"b,1,2,3', '"a"b,1,2,3'])
def test_csv_stray_quote_costs_its_own_line_only(write, line):
    log, report = read_csv(write(f"title,user,item,time\n{line}\nt,4,5,6\n"))
    assert events(log) == [(4, 5, 6)]
    assert bad(report) == ["line 2: a quote is not closed on its line, or stands inside a field"]


def test_csv_invalid_utf8_matters_only_in_our_columns(write):
    log, report = read_csv(write(b"title,user,item,time\n\xff,1,2,3\nx,1,\xff,3\n"))
    assert (len(log), bad(report)) == (1, ["line 3: item id is not UTF-8"])


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(FIELD, FIELD.filter(str.strip), st.integers(0, 2**62)), min_size=1))
def test_csv_reads_what_the_csv_module_writes(rows, tmp_path_factory):
    out = io.StringIO()
    csv.writer(out).writerows([("title", "item", "time", "user"), *((*row, "u") for row in rows)])
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    log, report = read_csv(path)
    assert report.rows_bad == 0
    assert [(str(item), time) for _, item, time in events(log)] == [(item.strip(), time) for _, item, time in rows]


def write_parquet(folder: Path, **columns) -> Path:
    path = folder / "log.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_parquet_finds_columns_in_any_order(tmp_path):
    path = write_parquet(tmp_path, ts=[3, 4], note=["a", "b"], iid=["x", "y"], is_like=[True, False], uid=[1, 2])
    log, report = read_parquet(path)
    assert log.frame.rows() == [(1, "x", 3, 1.0), (2, "y", 4, 0.0)]
    assert report.ignored_columns == ("note",)


def test_parquet_counts_rows_from_one(tmp_path):
    _, report = read_parquet(write_parquet(tmp_path, user=[1, 2], item=["a", None], time=[1.0, float("inf")]))
    assert bad(report) == ["line 2: item id is empty"]


def test_parquet_float_ids_of_pandas_are_integers(tmp_path):
    log, report = read_parquet(write_parquet(tmp_path, user=[1.0, float("nan"), 3.0], item=[1, 2, 3], time=[1, 2, 3]))
    assert (log.users.to_list(), bad(report)) == ([1, 3], ["line 2: user id is empty"])


def test_parquet_datetimes_become_milliseconds(tmp_path):
    when = [datetime(2022, 4, 25, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]
    log, _ = read_parquet(write_parquet(tmp_path, user=[1, 2], item=[1, 2], time=when))
    assert log.times.to_list() == [1650844800000, 1000]


def test_parquet_big_unsigned_ids_stay_apart(tmp_path):
    ids = pl.Series([2**63, 2**63 + 1], dtype=pl.UInt64)
    log, _ = read_parquet(write_parquet(tmp_path, user=ids, item=[1, 2], time=[1, 2]))
    assert log.users.to_list() == ["9223372036854775808", "9223372036854775809"]


def test_parquet_of_lists_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"column item holds List\(Int64\)"):
        read_parquet(write_parquet(tmp_path, user=[1], item=[[1]], time=[1]))


def test_parquet_that_is_none_is_refused(write):
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_parquet(write("user,item,time\n", "log.parquet"))


@pytest.mark.parametrize("name", READERS)
def test_missing_file_is_named(name, tmp_path):
    with pytest.raises(DataError, match=r"nowhere.txt is not a file"):
        READERS[name](tmp_path / "nowhere.txt")


@pytest.mark.parametrize("name", ["s3rec", "recbole", "csv"])
def test_empty_file_is_named(name, write):
    with pytest.raises(DataError, match="is empty"):
        READERS[name](write("\n\n"))


@pytest.mark.parametrize("name", ["recbole", "csv"])
def test_header_without_our_columns_is_refused(name, write):
    with pytest.raises(DataError, match="wanted user: one of user, user_id"):
        READERS[name](write("a;b;c\n1;2;3\n"))
