"""One folder in the place of another: in one step, and what a crash leaves when the system has no such step."""

import fcntl
import os

import pytest

from model.folders import replace
from model.folders.replace import exchange, folder_beside, replace_folder, settled


@pytest.fixture
def places(tmp_path):
    """A target that holds `old`, and beside it a folder that holds `new`."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    os.rename(tmp_path / "old", tmp_path / "target")
    return tmp_path / "new", tmp_path / "target"


def content(folder):
    return os.listdir(settled(folder))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_two_folders_change_places(places):
    new, target = places
    assert exchange(new, target)
    assert (content(new), content(target)) == (["old"], ["new"])


def test_folders_do_not_change_places_with_nothing(places):
    assert not exchange(places[0].with_name("missing"), places[1])
    assert content(places[1]) == ["old"]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_the_new_one_stands_and_the_old_one_goes(places, tmp_path, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr(replace, "exchange", lambda *_: False)
    replace_folder(*places)
    assert (content(places[1]), names(tmp_path)) == (["new"], ["target"])


def crash_at_rename(number, monkeypatch):
    """The process dies at the `number`-th rename: what comes after never runs, not even the cleaning up."""
    calls, rename = [], os.rename

    def dying(source, target):
        calls.append(source)
        if len(calls) >= number:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(replace, "exchange", lambda *_: False)
    monkeypatch.setattr("model.folders.replace.os.rename", dying)


@pytest.mark.parametrize("number", [1, 2])
def test_without_one_step_the_old_one_is_there_after_a_crash(places, tmp_path, monkeypatch, number):
    new, target = places
    with monkeypatch.context() as patch:
        crash_at_rename(number, patch)
        with pytest.raises(KeyboardInterrupt):
            replace_folder(new, target)
    assert content(target) == ["old"]
    replace_folder(new, target)
    assert (content(target), names(tmp_path)) == (["new"], ["target"])


def test_without_one_step_the_old_one_returns_when_the_second_rename_fails(places, monkeypatch):
    rename = os.rename

    def failing(source, target):
        if str(source).endswith("new"):
            raise OSError("I/O error")
        rename(source, target)

    monkeypatch.setattr(replace, "exchange", lambda *_: False)
    monkeypatch.setattr("model.folders.replace.os.rename", failing)
    with pytest.raises(OSError, match="I/O"):
        replace_folder(*places)
    assert content(places[1]) == ["old"]


def test_the_folders_of_killed_writers_are_deleted(tmp_path):
    left = tmp_path / ".target.0badcafe.new"
    left.mkdir()
    with folder_beside(tmp_path / "target"):
        assert not left.exists()
    assert names(tmp_path) == []


def test_the_folder_of_a_living_writer_is_kept(tmp_path):
    with folder_beside(tmp_path / "target") as first:
        with folder_beside(tmp_path / "target"):
            assert first.exists()
        descriptor = os.open(first, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
