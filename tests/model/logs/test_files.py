"""Files: which are meant, how they are packed and encoded, and their lines."""

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from model.logs.events import DataError
from model.logs.files import blocks, find_files, format_of, sample, stem

PACKERS = {"gz": gzip.compress, "zst": zstd.compress, "bz2": bz2.compress, "xz": lzma.compress, "csv": bytes}
TEXT = "user,item,time\n1,é,3\n"


def lines(path, size=2**24):
    """(number, line) of a file read in blocks."""
    return [
        (block.first_line + n, line) for block in blocks(path, size) for n, line in enumerate(block.text.split("\n"))
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("packer", PACKERS)
def test_packed_and_encoded_text_is_the_text(write, packer, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path = write(PACKERS[packer]((mark + TEXT).encode(encoding)), f"log.{packer}")
    assert lines(path) == [(1, "user,item,time"), (2, "1,é,3")]


@given(st.lists(st.sampled_from(["a", "bb", "", " "])), st.sampled_from(["\n", "\r", "\r\n"]), st.integers(1, 9))
def test_blocks_hold_every_line_under_its_number(tmp_path_factory, texts, end, size):
    path = tmp_path_factory.mktemp("blocks") / "log"
    path.write_bytes(end.join(texts).encode())
    while texts and not texts[-1]:
        texts.pop()
    expected = [(number, text) for number, text in enumerate(texts, 1) if text]
    assert [(number, text) for number, text in lines(path, size) if text] == expected


def test_line_ends_may_be_mixed(write):
    assert lines(write("a\rb\r\nc\nd\r\r\n"), 1) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


@pytest.mark.parametrize("packer", ["gz", "zst", "bz2", "xz"])
def test_a_torn_file_is_one_sentence(write, packer):
    path = write(PACKERS[packer](TEXT.encode() * 99)[:-9], "log")
    with pytest.raises(DataError, match="log cannot be read to its end"):
        lines(path)


def test_a_zip_archive_says_the_way_out(write):
    with pytest.raises(DataError, match="unpack it"):
        lines(write(b"PK\x03\x04....", "log.zip"))


def test_a_line_without_an_end_is_refused(write, monkeypatch):
    monkeypatch.setattr("model.logs.files.MAX_LINE_CHARACTERS", 100)
    with pytest.raises(DataError, match="line 2 is longer than 100 characters"):
        lines(write("a\n" + "x" * 300), 50)


@pytest.mark.parametrize("content", [b"", b"\n\n\r\n", b" \n\t\n"])
def test_an_empty_file_is_named(write, content):
    with pytest.raises(DataError, match=r"log.csv is empty"):
        sample(write(content))


def test_a_folder_means_its_logs_at_any_depth(write, tmp_path):
    names = ["b.csv", "a/part-1.parquet", "a/x.tsv.gz", "u.data"]
    for name in (*names, "_SUCCESS", ".b.csv.crc", "README.md", "a/_tmp/c.csv"):
        write("x", name)
    assert find_files([tmp_path]) == sorted(tmp_path / name for name in names)


def test_a_glob_means_what_it_matches_and_a_name_with_its_signs_the_file(write, tmp_path):
    for name in ("1.csv", "2.csv", "x[1].csv"):
        write("x", name)
    assert find_files([tmp_path / "[12].csv"]) == [tmp_path / "1.csv", tmp_path / "2.csv"]
    assert find_files([tmp_path / "x[1].csv"]) == [tmp_path / "x[1].csv"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nowhere.csv"], "nowhere.csv is not a file"),
        (["*.pq"], "no file is meant by"),
        (["empty"], "empty holds no log"),
        (["a.csv", "a.csv"], "a.csv is given twice"),
    ],
)
def test_a_path_that_means_nothing_is_named(write, tmp_path, names, message):
    write("x", "a.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_files([tmp_path / name for name in names])


@pytest.mark.parametrize(
    ("name", "content", "known"),
    [
        ("a.csv", "x", "csv"),
        ("a", '\n {"user": 1}', "jsonl"),
        ("a.json.gz", gzip.compress(b"[]", mtime=0), "jsonl"),
        ("a.inter", "x", "recbole"),
        ("a.dat", b"PAR1", "parquet"),
        ("a.parquet", "x", "parquet"),
        ("u.data", "1\t2", "csv"),
    ],
)
def test_the_format_of_a_file_is_seen(write, name, content, known):
    assert format_of(write(content, name)) == known


@pytest.mark.parametrize(
    ("name", "short"), [("a.csv", "a"), ("ml-1m.ratings.dat", "ml-1m.ratings"), ("a.tsv.gz", "a"), ("logs", "logs")]
)
def test_the_name_of_a_log_has_no_ending(name, short):
    assert stem(Path(name)) == short
