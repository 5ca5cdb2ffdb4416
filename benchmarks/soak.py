"""Every answer against the oracle, and memory over many requests: mixed requests on a real service, closed loop.

    python -m benchmarks.soak --requests 100000             # each list compared with the same request sent alone
    python -m benchmarks.soak --requests 1000000 --no-check # memory alone

Requests differ in history (0 to 60 ids, some unknown), length of the list and exclusions; a third was asked before, so
that cached and computed vectors mix. The oracle is the engine's own `compute` with one request at a time, in this
process, without cache. The last line is JSON.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.steady import Connection
from model.encoder import pin_compute_threads
from recall.bench.bundles import Sizes, make_bundle
from recall.bench.target import Target, serving
from service.engine.loading import LoadedArm, load_arm
from service.lists.fill import complete

CONNECTIONS, SAMPLES, REPEATS = 64, 40, 1 / 3
LATE = {"fallback", "one_step"}  # of `degraded`


def requests(num_items: int, count: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    kept: list[dict[str, Any]] = []
    for _ in range(count):
        if kept and rng.random() < REPEATS:
            yield kept[rng.integers(len(kept))]
            continue
        history = rng.integers(0, int(num_items * 1.05), rng.integers(0, 61)).tolist()
        exclude = rng.integers(0, num_items, rng.integers(0, 20)).tolist()
        body = {"history": history, "exclude": exclude, "top_n": int(rng.integers(1, 201))}
        kept.append(body)
        if len(kept) > 5000:
            kept.pop(0)
        yield body


def expected(arm: LoadedArm, body: dict[str, Any]) -> list[int]:
    """The answer of the service if nobody else were there."""
    items = arm.release.items
    request = arm.release.request(None, body["history"], body["exclude"], body["top_n"])
    [result] = arm.compute.run([request])
    listed = complete(items, result.merged, request)
    ids: list[int] = items.snapshot.column(listed.rows).tolist()
    return ids


@dataclass
class Soak:
    """The requests and answers so far."""

    target: Target
    todo: Iterator[dict[str, Any]]
    keep: bool
    answers: list[tuple[dict[str, Any], list[int]]] = field(default_factory=list)
    num_done: int = 0
    num_failed: int = 0
    labels: Counter[str] = field(default_factory=Counter)  # of answers that the whole plan did not make

    async def work(self) -> None:
        connection = await Connection.open(self.target.host, self.target.port)
        for body in self.todo:
            status, answer = await connection.ask("/recall/recgpt", body)
            self.num_done += 1
            if status != 200:
                self.num_failed += 1
            elif late := LATE.intersection(answer["degraded"]):
                # a machine that cannot keep up: a list that says that the plan was cut short is no wrong one
                self.labels.update(late)
            elif self.keep:
                self.answers.append((body, answer["items"]))
        connection.close()


async def run(soak: Soak, total: int) -> list[tuple[int, float]]:
    """(requests so far, resident MiB of the service), evenly over the run."""
    memory: list[tuple[int, float]] = []

    async def watch() -> None:
        while True:
            if soak.num_done >= len(memory) * total / SAMPLES:
                memory.append((soak.num_done, round(soak.target.memory_mb, 1)))
            await asyncio.sleep(0.1)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(soak.work() for _ in range(CONNECTIONS)))
    watcher.cancel()
    return [*memory, (soak.num_done, round(soak.target.memory_mb, 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--no-check", action="store_true", help="memory alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pin_compute_threads()
    sizes = Sizes()
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), sizes)
        with serving({"recgpt": bundle}, "--request-timeout-ms", "10000") as target:
            soak = Soak(target, requests(sizes.num_items, options.requests, options.seed), not options.no_check)
            started = time.monotonic()
            memory = asyncio.run(run(soak, options.requests))
            seconds = time.monotonic() - started
        differing = 0
        if soak.keep:
            arm = load_arm("recgpt", bundle, "cpu")
            differing = sum(expected(arm, body) != items for body, items in soak.answers)
    late = [mb for done, mb in memory if done > options.requests / 5]
    told: dict[str, Any] = {"requests": soak.num_done, "failed": soak.num_failed, "seconds": round(seconds, 1)}
    told |= {"labelled": dict(soak.labels), "checked": len(soak.answers), "differing": differing}
    told |= {"growth": round(late[-1] / late[0] - 1, 4) if late else None, "memory_mb": memory}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
