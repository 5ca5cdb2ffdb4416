"""The keys in force: found, limited, and changed while they are used."""

import asyncio

import pytest

from service.access.keys import new_key
from service.access.ring import Allowance, KeyRing, open_keys
from service.errors import ConfigurationError
from service.settings import Settings, load_settings


@pytest.fixture
def file(tmp_path):
    """(path, secret, ring) of a file with one key."""
    path = tmp_path / "keys"
    secret, key = new_key("feed", ["recall"], 2)
    path.write_text(key.line)
    return path, secret, open_keys(Settings(api_keys_file=path))


def test_a_key_is_found_by_its_bytes_alone(file):
    _, secret, ring = file
    assert ring.find(secret.encode()).name == "feed"
    for other in (secret[:-1], secret + "x", secret.upper(), "", ring.find(secret.encode()).line, "ü"):
        assert ring.find(other.encode()) is None
    assert ring.requests == {"feed": 2}


def test_another_file_is_in_force_after_a_look(file):
    path, secret, ring = file
    second, key = new_key("feed2", ["recall"])
    path.write_text(f"{path.read_text()}\n{key.line}")
    asyncio.run(ring.look())
    assert ring.find(secret.encode())
    assert ring.find(second.encode())
    path.write_text(key.line)
    asyncio.run(ring.look())
    assert ring.find(secret.encode()) is None


@pytest.mark.parametrize("text", ["feed recall", "", "\udcff", None])
def test_a_refused_file_leaves_the_keys_before_in_force(file, text, capsys):
    path, secret, ring = file
    good = path.read_text()
    path.unlink() if text is None else path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for _ in range(3):
        asyncio.run(ring.look())
    assert ring.find(secret.encode())
    assert ring.warnings() == ["api_keys_refused"]
    assert capsys.readouterr().out.count("result=refused") == 1
    path.write_text(good)
    asyncio.run(ring.look())
    assert ring.warnings() == []


def test_a_key_may_send_its_rate_and_no_more():
    now = [0.0]
    allowance = Allowance(10, lambda: now[0])
    assert [allowance.take() for _ in range(12)] == [True] * 10 + [False] * 2
    now[0] = 0.35
    assert [allowance.take() for _ in range(5)] == [True] * 3 + [False] * 2
    # what is not used is not saved for later than a second
    now[0] = 100.0
    assert sum(allowance.take() for _ in range(20)) == 10


def test_a_slow_key_may_send_one():
    now = [0.0]
    allowance = Allowance(0.1, lambda: now[0])
    assert [allowance.take(), allowance.take()] == [True, False]
    now[0] = 10.0
    assert allowance.take()


def test_reading_the_file_again_gives_nobody_more(file):
    path, secret, ring = file
    key = ring.find(secret.encode())
    assert [ring.admits(key) for _ in range(3)] == [True, True, False]
    path.write_text(f"{path.read_text()}\n{new_key('other', ['qa'])[1].line}")
    asyncio.run(ring.look())
    assert not ring.admits(ring.find(secret.encode()))


def test_processes_share_the_rate_of_a_key():
    secret, made = new_key("feed", ["recall"], 8)
    ring = open_keys(Settings(api_keys=made.line, http_workers=4))
    key = ring.find(secret.encode())
    assert [ring.admits(key) for _ in range(3)] == [True, True, False]


def test_nobody_needs_a_key_without_one():
    assert open_keys(Settings()) is None


@pytest.mark.parametrize("other", [{"qa_key": "q"}, {"admin_key": "a"}, {"api_keys_file": "f"}])
def test_two_kinds_of_keys_are_refused(other):
    with pytest.raises(ConfigurationError, match=r"in both|has no meaning beside API keys"):
        load_settings(api_keys="feed recall sha256:0", **other)


def test_a_missing_file_is_refused_at_start(tmp_path):
    with pytest.raises(ConfigurationError, match="the keys cannot be read: No such file"):
        KeyRing((tmp_path / "none").read_text, "the file")
