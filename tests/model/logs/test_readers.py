"""Readers: every format gives the same log; a bad row is reported with its line."""

import csv
import gzip
import io
import json
from contextlib import suppress
from functools import partial

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.logs import readers
from model.logs.columns import LogShape
from model.logs.events import DataError
from model.logs.readers import FORMATS, read_log

FIELD = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffd\ufeff"), max_size=6)


def bad(report):
    return [str(row) for row in report.first_bad]


def test_s3rec_line_is_a_user(read):
    events, report = read("1 5 6\n2 6\n", log_format="s3rec")
    assert events == [(1, 5, 0), (1, 6, 1), (2, 6, 0)]
    assert (report.rows_read, report.rows_bad) == (3, 0)


def test_s3rec_string_ids(read):
    events, _ = read("u1 a b\nu2\tb  a\n", log_format="s3rec")
    assert events == [("u1", "a", 0), ("u1", "b", 1), ("u2", "b", 0), ("u2", "a", 1)]


def test_s3rec_reports_bad_lines(read):
    events, report = read(b"1 5\n\n2\n1 7\n3 a\xff 8\n\xff 1 2\n", log_format="s3rec")
    assert bad(report) == [
        "line 2: the line is empty",
        "line 3: the user has no item",
        "line 4: the user has a line already: 1",
        "line 5: item id is not UTF-8",
        "line 6: user id is not UTF-8",
    ]
    assert events == [(1, 5, 0), (3, 8, 1)]


def test_s3rec_takes_no_names_of_columns(read):
    with pytest.raises(DataError, match="s3rec files have no columns"):
        read("1 2 3\n", log_format="s3rec", header=("user", "item", "time"))


def test_recbole_header_carries_types(read):
    text = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t7\t5\t1.5\nv\t8\t1\t2\n"
    events, report = read(text, "x.inter")
    assert events == [("u", 7, 1.5), ("v", 8, 2.0)]
    assert report.ignored_columns == ("rating",)


def test_recbole_quotes_are_ordinary(read):
    events, _ = read('user_id:token\titem_id:token\ttimestamp:float\nu\t7"\t1\n', "x.inter")
    assert events == [("u", '7"', 1)]


def test_csv_lines_count_the_header(read):
    events, report = read("uid,iid,ts\n1,2,3\n1,,3\n4,5\n4,5,x\n6,7,8,9\n\n7,8,9\n")
    assert events == [(1, 2, 3), (7, 8, 9)]
    assert bad(report) == [
        "line 3: item id is empty",
        "line 4: 2 fields; there must be 3",
        "line 5: time is not a number: x",
        "line 6: 4 fields; there must be 3",
        "line 7: the line is empty",
    ]


def test_csv_lines_count_what_stands_above_the_header(read):
    _, report = read("\n \nuser,item,time\n1,2,3\n1,2\n", log_format="csv")
    assert bad(report) == ["line 5: 2 fields; there must be 3"]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\r\n\n"])
def test_csv_line_ends(read, end):
    assert read(end.join(["user,item,time", "1,2,3", "4,5,6"]) + end)[0] == [(1, 2, 3), (4, 5, 6)] or end == "\r\n\n"


def test_csv_takes_a_mark_and_windows_lines(read):
    assert read(b"\xef\xbb\xbfuser,item,time\r\n1,2,3\r\n")[0] == [(1, 2, 3)]


def test_csv_quoted_fields(read):
    assert read('title,user,item,time\n"a, ""b""",1,"x,y",3\n')[0] == [(1, "x,y", 3)]


@pytest.mark.parametrize("line", ['"a,1,2,3', 'a"b,1,2,3', '"a"b,1,2,3', '"a",1,2,3"'])
def test_csv_stray_quote_costs_its_own_line_only(read, line):
    events, report = read(f"title,user,item,time\n{line}\nt,4,5,6\n")
    assert events == [(4, 5, 6)]
    assert bad(report) == ["line 2: a quote is not closed on its line, or stands inside a field"]


def test_csv_invalid_utf8_matters_only_in_our_columns(read):
    events, report = read(b"title,user,item,time\n\xff,1,2,3\nx,1,\xff,3\n")
    assert (len(events), bad(report)) == (1, ["line 3: item id is not UTF-8"])


@settings(max_examples=50)
@given(
    # below the times of any unit: a log that mixes seconds and milliseconds is refused
    rows=st.lists(st.tuples(FIELD, FIELD.filter(str.strip), st.integers(0, 2**28)), min_size=1),
    separator=st.sampled_from(",;|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_csv_reads_what_the_csv_module_writes(rows, separator, quoting, tmp_path_factory):
    out = io.StringIO()
    table = [("title", "item", "time", "user"), *(("t" + title, "i" + item, n, "u") for title, item, n in rows)]
    csv.writer(out, delimiter=separator, quoting=quoting).writerows(table)
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    log, report = read_log([path])
    assert report.rows_bad == 0
    assert log.frame.select("item", "time").rows() == [(item.strip(), n) for _, item, n, _ in table[1:]]


def test_blocks_do_not_change_what_is_read(read, monkeypatch):
    text = "user,item,time\n" + "".join(f"{n % 7},i{n},{n}\n" for n in range(500)) + "1,2\n"
    whole = read(text)
    sized = readers.blocks
    monkeypatch.setattr("model.logs.readers.blocks", lambda path: sized(path, 100))
    events, report = read(text)
    assert (events, bad(report)) == (whole[0], bad(whole[1]))


JSON_LINES = [
    {"user_id": "u1", "asin": 12345678901234567, "timestamp": 5, "text": 'a "b"\n', "helpful": [0, 1]},
    {"timestamp": 6.0, "asin": 7, "user_id": "u2"},
]


def test_json_lines_name_their_fields(read):
    events, report = read("\n".join(map(json.dumps, JSON_LINES)), "a.jsonl")
    assert events == [("u1", 12345678901234567, 5), ("u2", 7, 6)]
    assert report.ignored_columns == ("text", "helpful")


def test_a_bad_json_line_costs_its_own_line_only(read):
    texts = [json.dumps(JSON_LINES[0]), "{", "[1]", "", '{"user_id": ["u"], "asin": 1, "timestamp": 1}']
    more = ['{"user_id": null, "asin": 1, "timestamp": 1}', '{"asin": 1, "timestamp": 1}', json.dumps(JSON_LINES[1])]
    events, report = read("\n".join([*texts, *more]), "a.jsonl")
    assert events == [("u1", 12345678901234567, 5), ("u2", 7, 6)]
    assert bad(report) == [
        "line 2: the line is no JSON object",
        "line 3: the line is no JSON object",
        "line 4: the line is empty",
        "line 5: user holds a list or an object",
        "line 6: user id is empty",
        "line 7: user id is empty",
    ]


def test_the_digits_of_json_numbers_are_kept(read):
    lines = '{"user": 1, "item": 123456789012345678901, "time": 1700000000000000001}'
    assert read(lines, "a.jsonl")[0] == read(lines + "\n[]", "a.jsonl")[0]
    assert read(lines, "a.jsonl")[0] == [(1, "123456789012345678901", 1700000000000000001)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"user": 1}]', "one JSON array; write one object a line"),
        ('{"user": 1}', "lacks a column"),
        ("nothing", "holds no JSON object"),
    ],
)
def test_other_json_is_refused(read, text, message):
    with pytest.raises(DataError, match=message):
        read(text, "a.json")


def test_parquet_finds_columns_in_any_order(write_parquet):
    path = write_parquet(ts=[3, 4], note=["a", "b"], iid=["x", "y"], is_like=[True, False], uid=[1, 2])
    log, report = read_log([path])
    assert log.frame.rows() == [(1, "x", 3, 1.0), (2, "y", 4, 0.0)]
    assert report.ignored_columns == ("note",)


def test_parquet_counts_rows_from_one_over_its_parts(write_parquet, monkeypatch):
    monkeypatch.setattr("model.logs.readers.PARQUET_ROWS", 2)
    _, report = read_log([write_parquet(user=[1] * 5, item=["a", None, "b", "c", ""], time=[1.0] * 5)])
    assert bad(report) == ["line 2: item id is empty", "line 5: item id is empty"]
    assert report.rows_read == 5


def test_parquet_float_ids_of_pandas_are_integers(write_parquet):
    log, report = read_log([write_parquet(user=[1.0, float("nan"), 3.0], item=[1, 2, 3], time=[1, 2, 3])])
    assert (log.users.to_list(), bad(report)) == ([1, 3], ["line 2: user id is empty"])


def test_parquet_big_unsigned_ids_stay_apart(write_parquet):
    ids = pl.Series([2**63, 2**63 + 1], dtype=pl.UInt64)
    log, _ = read_log([write_parquet(user=ids, item=[1, 2], time=[1, 2])])
    assert log.users.to_list() == ["9223372036854775808", "9223372036854775809"]


def test_parquet_without_rows_is_read(write_parquet):
    path = write_parquet(user=pl.Series(dtype=pl.Int64), item=pl.Series(dtype=pl.Int64), time=pl.Series(dtype=pl.Int64))
    assert len(read_log([path])[0]) == 0


@pytest.mark.parametrize("content", [b"user,item,time\n", b"PAR1" + b"\0" * 99, b"PAR1PAR1"])
def test_parquet_that_is_none_is_refused(write, content):
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_log([write(content, "log.parquet")])


def test_several_files_are_one_log(write, write_parquet):
    files = [write("user,item,time\n1,2,30\n1,,4\n", "a.csv"), write_parquet("b.parquet", uid=[1], iid=["x"], ts=[20])]
    files.append(write('{"user": 1, "item": 3, "time": 10, "like": 1}', "c.jsonl"))
    log, report = read_log(files)
    assert log.frame.rows() == [(1, "2", 30, None), (1, "x", 20, None), (1, "3", 10, 1.0)]
    assert bad(report) == [f"{files[0]} line 3: item id is empty"]
    assert any(f"({files[1]} line 1: x)" in note for note in report.notes)


def test_files_with_and_without_times_are_refused(write):
    files = [write("1 2\n1 3\n", "a.txt"), write("user,item,time\n1,2,3\n", "b.csv")]
    with pytest.raises(DataError, match="some of the files have times"):
        read_log(files)


def test_rows_and_the_share_of_the_bytes_read_are_told(write):
    told, files = [], [write("user,item,time\n1,2,3\n1,2\n", "a.csv"), write("1,2,881250949\n", "b.csv")]
    read_log(files, on_rows=lambda rows, share: told.append((rows, share)))
    first, second = (file.stat().st_size for file in files)
    assert told == [(2, pytest.approx(first / (first + second))), (3, 1.0)]


def test_the_share_of_a_long_file_rises(write, monkeypatch):
    monkeypatch.setattr(readers, "blocks", partial(readers.blocks, num_characters=2**14))
    text = "user,item,time\n" + "".join(f"1,{n},3\n" for n in range(20_000))
    for content, name in ((text, "log.csv"), (gzip.compress(text.encode()), "log.csv.gz")):
        told = []
        read_log([write(content, name)], on_rows=lambda rows, share, told=told: told.append((rows, share)))
        assert told == sorted(told)
        assert (told[-1], len(told) > 5) == ((20_000, 1.0), True)


def test_signals_that_nobody_wants_are_checked_and_not_kept(write):
    path = write("user,item,time,like,share\n1,2,3,1,1\n1,2,3,x,1\n")
    log, report = read_log([path], signals=["share"])
    assert (log.signals, report.rows_bad, log.frame["share"].to_list()) == (("share",), 1, [1.0])


def test_objects_that_are_not_one_a_line_move_no_others(read):
    good = '{"user": 1, "item": 2, "time": 3}\n'
    halves = '{"user": 4, "item": 5,\n "time": 6}\n{"user": 7, "item": 8, "time": 9}{"user": 7, "item": 8, "time": 9}\n'
    events, report = read(good + halves + good, "log.jsonl")
    assert events == [(1, 2, 3), (1, 2, 3)]
    assert bad(report) == [f"line {line}: the line is no JSON object" for line in (2, 3, 4)]


def test_a_damaged_parquet_file_is_one_sentence_and_no_stack(write_parquet, capfd):
    path = write_parquet(user=[*range(99)], item=[*range(99)], time=[*range(99)])
    whole, errors = path.read_bytes(), 0
    for at in range(4, len(whole) - 8, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with suppress(DataError):
            read_log([path])
            continue
        errors += 1
    assert errors
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", FORMATS)
def test_missing_file_is_named(name, tmp_path):
    with pytest.raises(DataError, match=r"nowhere.txt is not a file"):
        read_log([tmp_path / "nowhere.txt"], name)


@pytest.mark.parametrize("name", ["s3rec", "recbole", "csv", "jsonl"])
def test_empty_file_is_named(name, write):
    with pytest.raises(DataError, match="is empty"):
        read_log([write("\n\n")], name)


@pytest.mark.parametrize("shape", [{"header": ("user", "item", "time")}, {"separator": ";"}], ids=str)
def test_options_of_text_are_refused_elsewhere(write_parquet, write, shape):
    for path in (write_parquet(user=[1], item=[1], time=[1]), write('{"user": 1}', "a.jsonl")):
        with pytest.raises(DataError, match="leave --header and --separator out"):
            read_log([path], None, LogShape(**shape))
