"""EmbeddedRedis: a real server of our own that keeps its data, its folder and its hands off others."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import redis

from recall.bench.target import children_running
from service.errors import ConfigurationError
from service.stores.embedded_redis import EmbeddedRedis


@pytest.fixture
def server(tmp_path):
    with EmbeddedRedis(tmp_path) as running:
        yield running


def ask(server, *command):
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*command)


def test_embedded_server_keeps_its_data_over_a_restart(tmp_path):
    with EmbeddedRedis(tmp_path) as first:
        ask(first, "SET", "key", "kept")
    with EmbeddedRedis(tmp_path) as second:
        assert ask(second, "GET", "key") == b"kept"


def test_embedded_server_copes_with_a_long_path(tmp_path):
    folder = tmp_path / ("long" * 30)
    with EmbeddedRedis(folder) as server:
        assert ask(server, "PING")
        assert (folder / "appendonly.aof").exists()


def test_second_server_in_one_folder_is_refused(server, tmp_path):
    with pytest.raises(ConfigurationError, match="in use"):
        EmbeddedRedis(tmp_path).start()
    assert server.pid


def test_server_left_by_a_crash_is_replaced(tmp_path):
    crashed = EmbeddedRedis(tmp_path)
    crashed.start()
    crashed._lock.close()  # what the kernel does for a process that dies
    with EmbeddedRedis(tmp_path) as server:
        assert crashed._server.wait(5) == 0
        assert ask(server, "PING")
    crashed.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from service.stores.embedded_redis import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_server_ends_with_a_process_that_is_killed(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(killed.stdout)):
        assert time.monotonic() < deadline, "the server outlives its process"
        time.sleep(0.02)


def test_restarted_server_has_one_watchdog(tmp_path):
    with EmbeddedRedis(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        server._server.wait()
        assert server.ensure()
        deadline = time.monotonic() + 10
        while not (watchdogs := children_running("watchdog")):
            assert time.monotonic() < deadline, "the server has no watchdog"
            time.sleep(0.02)
        assert [child.cmdline()[-1] for child in watchdogs] == [str(server.pid)]


def test_closed_server_is_gone_and_no_other_is(server, tmp_path):
    other = EmbeddedRedis(tmp_path / "other")
    other.start()
    other.close()
    assert (bool(server.pid), other.pid) == (True, 0)


def test_server_that_does_not_start_is_one_sentence(tmp_path):
    (tmp_path / "appendonly.aof").write_bytes(b"not an append-only file")
    server = EmbeddedRedis(tmp_path)
    with pytest.raises(ConfigurationError, match=r"cannot start in .*: it ended with: "):
        server.start()
    assert server.pid == 0


def test_unusable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot start"):
        EmbeddedRedis(tmp_path / "file" / "state").start()


def test_dead_server_is_started_again_at_the_same_place(tmp_path):
    with EmbeddedRedis(tmp_path / ("long" * 30)) as server:
        url, pid = server.url, server.pid
        assert not server.ensure()
        os.kill(pid, signal.SIGKILL)
        server._server.wait()
        assert server.ensure()
        assert (server.url, ask(server, "PING")) == (url, True)


def test_failed_restart_keeps_the_place(tmp_path):
    with EmbeddedRedis(tmp_path / ("long" * 30)) as server:
        url, aof = server.url, tmp_path / ("long" * 30) / "appendonly.aof"
        os.kill(server.pid, signal.SIGKILL)
        server._server.wait()
        aof.write_bytes(b"not an append-only file")
        with pytest.raises(ConfigurationError):
            server.ensure()
        aof.unlink()
        assert server.ensure()
        assert server.url == url
