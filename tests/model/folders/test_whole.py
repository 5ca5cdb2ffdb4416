"""A folder is read as it was written, all of one version, or refused with a sentence that says what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from model.data.sequences import PREPARED, SequenceData
from model.folders.files import FolderRefused, write_file
from model.folders.whole import MANIFEST, FolderKind, check_target, read_folder, write_folder

PAIR = FolderKind("pair", "recall pair", ("left", "right"))


def write(folder, text):
    write_folder(PAIR, folder, lambda new: [(new / name).write_text(text) for name in PAIR.files])


def texts(folder):
    return {(folder / name).read_text() for name in PAIR.files}


@pytest.fixture
def pair(tmp_path):
    write(tmp_path / "pair", "old")
    return tmp_path / "pair"


def refusal(folder):
    with pytest.raises(FolderRefused) as caught:
        read_folder(PAIR, folder, texts)
    return str(caught.value)


def test_what_was_written_is_read(pair):
    assert read_folder(PAIR, pair, texts) == {"old"}
    write(pair, "new")
    assert read_folder(PAIR, pair, texts) == {"new"}


def test_an_error_leaves_the_old_one(pair, tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_folder(PAIR, pair, lambda new: [(new / "left").write_text("new"), 1 / 0])
    assert read_folder(PAIR, pair, texts) == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["pair"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda pair: (pair / "left").write_text("new"), "left is not the file that was saved with the rest"),
        (lambda pair: (pair / "left").unlink(), "left missing"),
        (lambda pair: (pair / "middle").touch(), "middle is not the file that was saved with the rest"),
        (lambda pair: (pair / MANIFEST).unlink(), "has no manifest.json"),
        (lambda pair: (pair / MANIFEST).write_text("{"), "manifest.json is damaged, or not that of a pair"),
        (lambda pair: (pair / MANIFEST).write_text("[]"), "manifest.json is damaged, or not that of a pair"),
        (lambda pair: change_manifest(pair, lambda body: body.update(kind="other")), "manifest.json is damaged"),
        (lambda pair: change_manifest(pair, lambda body: body["files"].pop("left")), "manifest.json is damaged"),
        (lambda pair: change_manifest(pair, lambda body: body["files"].update(left={})), "manifest.json is damaged"),
    ],
)
def test_a_folder_that_does_not_match_is_refused_with_the_way_out(pair, change, sentence):
    change(pair)
    assert sentence in refusal(pair)
    assert refusal(pair).endswith("make it again with `recall pair`")


def change_manifest(pair, change):
    body = json.loads((pair / MANIFEST).read_text())
    change(body)
    (pair / MANIFEST).write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


def test_whoever_reads_while_it_is_replaced_gets_one_version(pair):
    versions = iter(["new"])

    def slow(folder):
        left = (folder / "left").read_text()
        for text in versions:
            write(pair, text)
        return {left, (folder / "right").read_text()}

    assert read_folder(PAIR, pair, slow) == {"new"}


def test_a_folder_that_is_replaced_without_end_is_not_read(pair):
    numbers = iter(range(100))

    def slower(folder):
        write(pair, str(next(numbers)))
        return texts(folder)

    with pytest.raises(FolderRefused, match="was replaced 3 times while it was read; try again"):
        read_folder(PAIR, pair, slower)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.touch(), "is a link or a file"),
        (lambda path: path.symlink_to("pair"), "is a link or a file"),
        (lambda path: (path / "notes").mkdir(parents=True), "holds 'notes', which is no part of a pair"),
        (lambda path: [path.mkdir(), *((path / name).touch() for name in "abc")], "holds 'a' and 2 more"),
    ],
)
def test_what_is_something_else_is_not_replaced(pair, tmp_path, make, sentence):
    make(tmp_path / "precious")
    with pytest.raises(FolderRefused, match=sentence):
        write(tmp_path / "precious", "new")
    assert os.path.lexists(tmp_path / "precious")


def test_a_mount_point_is_refused():
    with pytest.raises(FolderRefused, match="/proc is a mount point, which cannot be replaced in one step"):
        check_target(PAIR, Path("/proc"))


def test_a_file_is_replaced_in_one_step(tmp_path):
    write_file(tmp_path / "state" / "file", lambda path: path.write_text("old"))
    with pytest.raises(ZeroDivisionError):
        write_file(tmp_path / "state" / "file", lambda path: [path.write_text("new"), 1 / 0])
    assert (tmp_path / "state" / "file").read_text() == "old"
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["file"]


SAVES = """
import sys
from itertools import cycle
from pathlib import Path
from model.data.sequences import SequenceData
versions = [SequenceData.load(Path(folder)) for folder in sys.argv[2:]]
print("ready", flush=True)
for version in cycle(versions):
    version.save(Path(sys.argv[1]))
"""
NUM_KILLS = 6


def test_a_data_set_is_one_version_however_its_writer_is_killed(tiny, tmp_path):
    """The short form of `python -m benchmarks.kills`."""
    versions = [tiny, replace(tiny, train=tiny.valid)]
    folders = [tmp_path / name for name in ("first", "second")]
    for folder, version in zip(folders, versions, strict=True):
        version.save(folder)
    target, digests = tmp_path / "target", {version.digest for version in versions}
    tiny.save(target)
    for number in range(NUM_KILLS):
        command = [sys.executable, "-c", SAVES, *map(str, [target, *folders])]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(0.03 + 0.007 * number)
            writer.send_signal(signal.SIGKILL)
        assert SequenceData.load(target).digest in digests
    tiny.save(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second", "target"]
    check_target(PREPARED, target)
