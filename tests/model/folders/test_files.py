"""Files of a folder: listed without following anything, hashed, and replaced whole or not at all."""

import hashlib
import os

import pytest

from model.folders.files import FileRecord, FolderRefused, list_files, open_plain, record_file, write_file


def test_every_file_below_is_listed_with_its_size(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"123")
    (tmp_path / ".hidden").write_bytes(b"")
    assert list_files(tmp_path) == {"a/b.bin": 3, ".hidden": 0}


@pytest.mark.parametrize("target", ["file", "folder", "/etc/hostname", "gone"])
def test_a_link_is_refused_wherever_it_points(tmp_path, target):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(FolderRefused, match="'link' is a link or a special file"):
        list_files(tmp_path)


def test_a_pipe_is_refused_and_nobody_waits_for_its_other_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FolderRefused, match="is a link or a special file"):
        list_files(tmp_path)
    with pytest.raises(FolderRefused, match="pipe is not a plain file"), open_plain(tmp_path / "pipe"):
        pass


def test_a_link_is_not_opened(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="link"), open_plain(tmp_path / "link"):
        pass


def test_a_record_is_the_digest_and_the_size(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1000)
    assert record_file(tmp_path / "x") == FileRecord(hashlib.sha256(b"abc" * 1000).hexdigest(), 3000)


@pytest.mark.parametrize(
    ("sha256", "num_bytes"), [("A" * 64, 1), ("0" * 63, 1), (None, 1), ("0" * 64, 1.0), ("0" * 64, True)]
)
def test_a_record_that_is_none_is_refused(sha256, num_bytes):
    with pytest.raises(FolderRefused, match="a file without a sha256 and a size"):
        FileRecord(sha256, num_bytes)


def test_a_file_takes_the_place_of_another_and_leaves_nothing(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x").write_text("old")
    write_file(tmp_path / "deep" / "x", lambda fresh: fresh.write_text("new"))
    assert {path.name: path.read_text() for path in (tmp_path / "deep").iterdir()} == {"x": "new"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "x").write_text("old")

    def half(fresh):
        fresh.write_text("half of")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_file(tmp_path / "x", half)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "old"}


def test_folders_are_made_on_the_way(tmp_path):
    write_file(tmp_path / "a" / "b" / "x", lambda fresh: fresh.write_bytes(b""))
    assert list_files(tmp_path) == {"a/b/x": 0}
