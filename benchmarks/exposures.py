"""CPU time that recording an exposure costs a request: `python -m benchmarks.exposures`.

Ten requests of each of 1e4 users through the recorder, with lists of 100 items of which a tenth is sampled, into an
outbox that writes to an embedded redis-server; process CPU time, the pipelines to Redis included.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.events.outbox import Outbox
from service.events.spool import Spool
from service.experiments.assignment import Assignment, Reason
from service.experiments.conditions import USER
from service.experiments.recorder import ExposureRecorder
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits

NUM_USERS, NUM_RUNS, LIST_LENGTH = 10_000, 3, 100
PAUSE_EVERY = 200  # requests; then the event loop writes
COUNTED = Assignment("recgpt", Reason.EXPERIMENT, "config", "recgpt-vs-comirec", "0", "recgpt")


@dataclass(frozen=True)
class Query:
    """The part of a query that is recorded."""

    user: str
    request_id: str
    top_n: int = LIST_LENGTH

    def unit_by(self, attribute: str) -> str | None:
        return self.user if attribute == USER else None


@dataclass(frozen=True)
class Result:
    """The part of an answer that is recorded."""

    item_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    bundle: str = "0123456789abcdef"
    served: str = "recgpt"
    provenance: None = None
    timings_ms: Mapping[str, float] = field(default_factory=lambda: {"total": 4.2})


async def run(url: str, folder: Path, num_rounds: int) -> dict[str, float]:
    """CPU microseconds a request, until everything is in Redis, and what was written."""
    redis = RedisClient(url, "events", RedisLimits(timeout_ms=5000))
    await redis.run(lambda client: client.flushall())
    outbox = Outbox(redis, Spool(folder, 1 << 28))
    recorder = ExposureRecorder(outbox, 0.1)
    rng = np.random.default_rng(0)
    result = Result(rng.integers(0, 10**6, LIST_LENGTH), rng.random(LIST_LENGTH, np.float32))
    queries = [Query(f"user-{number}", f"0123456789abcdef{number:012x}") for number in range(NUM_USERS)]
    started = time.process_time()
    for number in range(num_rounds * NUM_USERS):
        recorder.record(queries[number % NUM_USERS], COUNTED, "recgpt", result)
        if number % PAUSE_EVERY == 0:
            await asyncio.sleep(0.001)
    lost = await outbox.close(60)
    seconds = time.process_time() - started
    await redis.close()
    num_requests = num_rounds * NUM_USERS
    return {"us_a_request": round(1e6 * seconds / num_requests, 2), "written": outbox.written, "lost": lost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="requests of each user")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "redis") as server:
        for _ in range(NUM_RUNS):
            print(json.dumps(asyncio.run(run(server.url, Path(folder) / "spool", options.rounds))))


if __name__ == "__main__":
    main()
