"""The event log under load, under a frozen Redis, and read as a whole. Each command prints one JSON line.

    python -m benchmarks.event_log flood --events 3_000_000
    python -m benchmarks.event_log flood --events 200_000 --no-consumer
    python -m benchmarks.event_log flood --events 3_000_000 --compose docker-compose.yml
    python -m benchmarks.event_log frozen --seconds 60
    python -m benchmarks.event_log analysis --events 10_000_000

flood: exposures, each of another user, go through the service's own recorder and outbox into the embedded Redis of a
running service, or into Redis servers and beside a consumer that are started with the words of a compose file, while
clients send it feedback and ask /ready. frozen: a Redis that stops for so long while users ask,
and a service that is told to stop meanwhile; each exposure must be in Redis or on disk. analysis: CPU and memory of
`recall experiment report` on a log of so many events.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import polars as pl
import psutil
from redis import Redis

from benchmarks.compose_redis import consumer_of, redis_of
from benchmarks.exposures import COUNTED, LIST_LENGTH, Query, Result
from benchmarks.made_log import make_log
from recall.bench.bundles import Sizes, make_bundle
from recall.bench.target import serving
from service.events.outbox import Outbox
from service.events.spool import Spool
from service.events.streams import EXPOSURES
from service.experiments.exposure import Exposure
from service.experiments.recorder import ExposureRecorder
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits

MAX_WAITING, PAUSE_EVERY = 5_000, 200  # exposures
SMALL = Sizes(num_items=2_000, num_layers=1)
PATIENT = ("--request-timeout-ms", "30000", "--events-timeout-ms", "5000")


class FeedbackClient(threading.Thread):
    """Sends feedback and asks /ready until it is stopped."""

    def __init__(self, url: str, a_second: float) -> None:
        super().__init__()
        self._url, self._pause_s = url, 1 / a_second
        self._stopped = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.warnings: dict[str, int] = {}  # -> feedback sent until it was said first
        self.slowest_ms = 0.0

    def run(self) -> None:
        number = 0
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stopped.wait(self._pause_s):
                number += 1
                event = {"user_id": number % 1000, "item_id": number % 500, "action": "play", "event_id": str(number)}
                started = time.perf_counter()
                self.statuses[self._send(client, event)] += 1
                self.slowest_ms = max(self.slowest_ms, 1e3 * (time.perf_counter() - started))
                if number % 20 == 0:
                    for warning in client.get("/ready").json()["degraded"]:
                        self.warnings.setdefault(warning, number)

    @staticmethod
    def _send(client: httpx.Client, event: dict[str, Any]) -> int:
        try:
            return client.post("/feedback", json=event).status_code
        except httpx.RemoteProtocolError:
            # the service has closed the idle connection of a client that a busy machine held up; an id counts once
            return client.post("/feedback", json=event).status_code

    def stop(self) -> None:
        self._stopped.set()
        self.join()


async def record_all(url: str, folder: Path, num_events: int) -> int:
    """Records exposures of as many users; returns how many were dropped. What Redis did not take is in the folder."""
    redis = RedisClient(url, "events", RedisLimits(timeout_ms=5000))
    outbox = Outbox(redis, Spool(folder, 1 << 28))
    recorder = ExposureRecorder(outbox, sample_share=0.0)
    rng = np.random.default_rng(0)
    result = Result(rng.integers(0, 10**6, LIST_LENGTH), rng.random(LIST_LENGTH, np.float32))
    for number in range(num_events):
        recorder.record(Query(f"user-{number}", f"0123456789abcdef{number:012x}"), COUNTED, "recgpt", result)
        if number % PAUSE_EVERY == 0:
            await asyncio.sleep(0.001)
            while outbox.num_queued > MAX_WAITING:  # noqa: ASYNC110  (nothing tells of an outbox)
                await asyncio.sleep(0.01)
    dropped = await outbox.close(60)
    await redis.close()
    return dropped


def left_on_disk(folder: Path) -> list[bytes]:
    """Takes the exposures out of a spool whose writer has ended."""
    entries: list[bytes] = []
    spool = Spool(folder, 1 << 30)
    while spool.num_bytes:
        read, num_bytes = spool.read()
        entries += [data for stream, data in read if stream == EXPOSURES]
        spool.forget(num_bytes)
    spool.close()
    return entries


def count_rows(files: Path) -> tuple[int, int]:
    """Rows, and ids among them."""
    counted = pl.scan_parquet(files).select(pl.len(), pl.col("id").n_unique()).collect()
    return int(counted.item(0, 0)), int(counted.item(0, 1))


class Stage(NamedTuple):
    """The stores of a flood: what the service is told of them, the Redis of its events, and the log's folder."""

    options: Sequence[str]
    redis_url: Callable[[], str]  # once the service runs
    log: Path


@contextmanager
def embedded(folder: Path, has_consumer: bool) -> Iterator[Stage]:
    """The service's own Redis and consumer."""
    options = ("--event-log-gb", "4" if has_consumer else "0")
    where = folder / "state" / "redis" / "redis.where"
    yield Stage(options, lambda: f"unix://{where.read_text()}", folder / "state" / "events")


@contextmanager
def composed(compose: Path, folder: Path, has_consumer: bool) -> Iterator[Stage]:
    """The servers of a compose file, and its consumer in a process of its own."""
    with ExitStack() as stack:
        cache, events = (
            stack.enter_context(redis_of(compose, f"redis-{role}", folder / role)) for role in ("cache", "events")
        )
        if has_consumer:
            stack.enter_context(consumer_of(compose, events, folder / "log"))
        yield Stage(("--redis-url", cache, "--events-redis-url", events), lambda: events, folder / "log")


def flood(num_events: int, has_consumer: bool, compose: Path | None) -> dict[str, Any]:
    """The fate of exposures, and of the feedback that came meanwhile."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores = composed(compose, folder, has_consumer) if compose else embedded(folder, has_consumer)
        stage = stack.enter_context(stores)
        options = ("--state-dir", str(folder / "state"), *stage.options, *PATIENT)
        with serving({"recgpt": make_bundle(folder, SMALL)}, *options) as target:
            client = FeedbackClient(target.url, a_second=20)
            client.start()
            started = time.monotonic()
            dropped = asyncio.run(record_all(stage.redis_url(), folder / "own-spool", num_events))
            num_left = len(left_on_disk(folder / "own-spool"))
            writing_s = time.monotonic() - started
            with Redis.from_url(stage.redis_url()) as redis:
                while has_consumer and redis.xlen(EXPOSURES):
                    time.sleep(0.5)
                time.sleep(2)  # a look at /ready after the last exposure
                client.stop()
                facts = redis.info()
            spent = target.usage()
        rows = count_rows(stage.log / "exposures" / "*" / "*.parquet") if has_consumer else None
    return {
        "exposures": num_events,
        "stores": str(compose) if compose else "embedded",
        "redis": facts["redis_version"],
        "consumer": has_consumer,
        "dropped": dropped,
        "on_disk": num_left,
        "rows": rows and rows[0],
        "lost": rows and num_events - rows[1],
        "feedback": {str(status): count for status, count in client.statuses.items()},
        "slowest_feedback_ms": round(client.slowest_ms, 1),
        "ready_said": sorted(client.warnings),
        "redis_peak_mb": round(facts["used_memory_peak"] / 2**20, 1),
        "writing_s": round(writing_s, 1),
        "cpu_s": {part: round(seconds, 1) for part, seconds in spent.items()},
    }


class Askers(threading.Thread):
    """Users who ask, each once, until the service does not answer any more."""

    def __init__(self, url: str, a_second: float) -> None:
        super().__init__()
        self._url, self._pause_s = url, 1 / a_second
        self.answered: set[str] = set()

    def run(self) -> None:
        number = 0
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while True:
                number += 1
                try:
                    reply = client.post("/recall", json={"user_id": f"u{number}", "history": [1], "top_n": 5})
                except httpx.HTTPError:
                    return
                if reply.status_code == 200:
                    self.answered.add(f"u{number}")
                time.sleep(self._pause_s)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def frozen(seconds: float) -> dict[str, Any]:
    """Exposures of users who were answered while Redis stood still, and the service was stopped before it went on."""
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(Path(name) / "redis") as server:
        folder = Path(name)
        state, bundle = folder / "state", make_bundle(folder, SMALL)
        rule = {"key": "exp", "hashAttribute": "user_id", "hashVersion": 2, "variations": ["a", "b"]}
        (folder / "exp.json").write_text(
            json.dumps({"features": {"recall_arm": {"defaultValue": "a", "rules": [rule]}}})
        )
        options = ("--state-dir", str(state), "--redis-url", server.url, "--experiments", str(folder / "exp.json"))
        with serving({"a": bundle, "b": bundle}, *options) as target:
            askers = Askers(target.url, a_second=50)
            askers.start()
            time.sleep(2)
            with stopped(server.pid):
                time.sleep(seconds)
                service = psutil.Process(target.pid)
                service.terminate()
                askers.join()
                service.wait()
        entries = left_on_disk(state / "spool")
        with Redis.from_url(server.url) as redis:
            written = [fields[b"e"] for _, fields in redis.xrange(EXPOSURES)]
        units = {Exposure.from_json(data).unit for data in (*entries, *written)}
    return {
        "frozen_s": seconds,
        "answered": len(askers.answered),
        "in_redis": len(written),
        "on_disk": len(entries),
        "lost": len(askers.answered - units),
    }


def analysis(num_events: int) -> dict[str, Any]:
    """CPU seconds and memory of a report on so many events."""
    with tempfile.TemporaryDirectory() as name:
        make_log(Path(name), num_events)
        command = [sys.executable, "-m", "recall", "experiment", "report", "exp", "--log", name, "--json"]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads(done.stdout.splitlines()[-1])
    return {
        "events": num_events,
        "cpu_s": round(spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime, 1),
        "wall_s": round(time.monotonic() - started, 1),
        "peak_gb": round(spent.ru_maxrss / 2**20, 2),
        "users": report["exposures"][-1]["users"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("flood", "frozen", "analysis"))
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--no-consumer", action="store_true")
    parser.add_argument("--compose", type=Path, help="flood: Redis and consumer as this file starts them")
    options = parser.parse_args()
    if options.what == "flood":
        row = flood(options.events, not options.no_consumer, options.compose)
    else:
        row = frozen(options.seconds) if options.what == "frozen" else analysis(options.events)
    print(json.dumps({"what": options.what, **row}))


if __name__ == "__main__":
    main()
