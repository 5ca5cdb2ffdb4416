"""Events on disk: read in order, forgotten once delivered, taken over from processes that are gone, never torn."""

import errno
import os

import pytest

from service.errors import ConfigurationError
from service.events.spool import SUFFIX, Spool, SpoolFile

EVENTS = [("recall:exposures", b'{"n": 1}'), ("recall:shown", b'{"n": 2}'), ("recall:exposures", b'{"n": 3}')]


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path, 1 << 20)
    yield spool
    spool.close()


def test_events_are_read_in_their_order_and_forgotten(spool):
    assert spool.append(EVENTS) == 3
    events, num_bytes = spool.read()
    assert events == EVENTS
    spool.forget(num_bytes)
    assert (spool.num_bytes, spool.read()) == (0, ([], 0))


def test_what_is_not_forgotten_is_read_again(spool):
    spool.append(EVENTS)
    assert spool.read() == spool.read()


def test_the_bound_takes_the_first_events_that_fit(tmp_path):
    line = len(b"recall:shown\t{}\n")
    spool = Spool(tmp_path, 2 * line)
    assert spool.append([("recall:shown", b"{}")] * 5) == 2
    assert spool.append([("recall:shown", b"{}")]) == 0
    spool.close()


def test_a_disk_that_is_full_leaves_no_half_event(spool, monkeypatch):
    spool.append(EVENTS[:1])

    def write(descriptor, data, wrote=os.write):
        wrote(descriptor, data[:5])
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "write", write)
    assert spool.append(EVENTS[1:]) == 0
    monkeypatch.undo()
    assert spool.append(EVENTS[2:]) == 1
    assert spool.read()[0] == [EVENTS[0], EVENTS[2]]


def test_a_process_takes_over_what_one_before_it_left(tmp_path):
    first = Spool(tmp_path, 1 << 20)
    first.append(EVENTS)
    first.close()
    second = Spool(tmp_path, 1 << 20)
    events, num_bytes = second.read()
    assert events == EVENTS
    second.forget(num_bytes)
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_comes_before_what_is_new(tmp_path):
    first = Spool(tmp_path, 1 << 20)
    first.append(EVENTS[:1])
    first.close()
    second = Spool(tmp_path, 1 << 20)
    second.append(EVENTS[1:])
    events, num_bytes = second.read()
    assert events == EVENTS[:1]
    second.forget(num_bytes)
    assert second.read()[0] == EVENTS[1:]
    second.close()


def test_the_file_of_a_process_that_lives_is_left_alone(tmp_path, spool):
    spool.append(EVENTS)
    other = Spool(tmp_path, 1 << 20)
    assert other.read() == ([], 0)
    other.close()


def test_a_line_that_a_crash_tore_off_is_passed_over(tmp_path):
    (tmp_path / f"old{SUFFIX}").write_bytes(b"recall:shown\t{}\nrecall:exposu")
    spool = Spool(tmp_path, 1 << 20)
    events, num_bytes = spool.read()
    assert events == [("recall:shown", b"{}")]
    spool.forget(num_bytes)
    torn, rest = spool.read()
    assert torn == []
    spool.forget(rest)
    assert spool.num_bytes == 0
    spool.close()


def test_bytes_that_are_no_event_are_passed_over(tmp_path):
    (tmp_path / f"old{SUFFIX}").write_bytes(b"no mark here\nrecall:shown\t{}\n")
    spool = Spool(tmp_path, 1 << 20)
    assert spool.read()[0] == [("recall:shown", b"{}")]
    spool.close()


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"no spool in .*file"):
        Spool(tmp_path / "file", 1 << 20)


def test_a_file_is_locked_once(tmp_path):
    held = SpoolFile.lock(tmp_path / "one")
    assert SpoolFile.lock(tmp_path / "one") is None
    held.close()
    assert not (tmp_path / "one").exists()


def test_a_spool_that_was_read_to_its_end_goes_on(spool):
    spool.append(EVENTS[:1])
    spool.forget(spool.read()[1])
    assert spool.append(EVENTS[1:]) == 2
    assert spool.read()[0] == EVENTS[1:]
