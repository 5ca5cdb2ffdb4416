"""Hot swaps under load: each answer against the bundle that it names, in one process and with two HTTP processes.

    python -m benchmarks.hot_swaps --swaps 50 --output benchmarks/results/hot_swaps.jsonl

Two bundles of one size take turns; their weights differ, and so do the ids behind their rows, so that a row read by the
wrong catalogue shows. Clients send at a fixed rate while bundles are swapped by POST /admin/reload, every fifth time by
a roll back. Failed: no answer, another status than 200, or a fallback. Mixed: an answer whose list is not, id for id,
what the bundle it names answers alone. The oracle is the engine's own `compute` in this process, afterwards.
Memory: of the service with all its processes, after the first two swaps and at the end. One JSON line a layout.
"""

import argparse
import asyncio
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import psutil

from benchmarks.soak import expected, requests
from index.bundle.build import build_bundle
from model.catalogue import Catalogue, IdMap
from model.encoder import pin_compute_threads
from recall.bench.bundles import Sizes, make_checkpoint
from recall.bench.target import Target, serving
from service.engine.loading import load_arm

LAYOUTS: dict[str, tuple[str, ...]] = {"one process": (), "2 HTTP processes": ("--http-workers", "2")}
CONNECTIONS, KEY, REST_S, RELOAD_LIMIT_S = 16, "only-here", 0.3, 300
NAMES = ("own", "other")


def make_bundles(folder: Path, sizes: Sizes) -> None:
    """Bundles `own` and `other`: rows 1 .. N are the ids 0 .. N-1 in the first, N-1 .. 0 in the second."""
    for seed, name in enumerate(NAMES):
        checkpoint = make_checkpoint(replace(sizes, seed=seed))
        ids = range(sizes.num_items)
        items = IdMap.of(ids if name == "own" else ids[::-1])
        other = Catalogue(items, IdMap.of([]), checkpoint.catalogue.counts)
        replace(checkpoint, catalogue=other).save(folder / f"checkpoint-{name}")
        build_bundle(folder / f"checkpoint-{name}", folder / name)


@dataclass
class Load:
    """Requests at a fixed rate over some connections, and what came of them."""

    target: Target
    todo: Iterator[dict[str, Any]]
    rate: float
    is_over: bool = False
    num_failed: int = 0
    answers: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    async def work(self, number: int) -> None:
        """One connection; a request that is late leaves at once, and its latency counts from when it was due."""
        reader, writer = await asyncio.open_connection(self.target.host, self.target.port)
        interval = CONNECTIONS / self.rate
        due = time.monotonic() + interval * number / CONNECTIONS
        while not self.is_over:
            await asyncio.sleep(due - time.monotonic())
            body = next(self.todo)
            data = orjson.dumps(body)
            writer.write(b"POST /recall HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.split(b"content-length: ")[1].split(b"\r")[0])
            answer = orjson.loads(await reader.readexactly(size))
            self.latencies_ms.append(1e3 * (time.monotonic() - due))
            if b" 200 " not in head.split(b"\r\n")[0] or "fallback" in answer["degraded"]:
                self.num_failed += 1
            else:
                self.answers.append((body, answer))
            due = max(due + interval, time.monotonic() - interval)
        writer.close()


async def swap(target: Target, number: int) -> float:
    """Swaps once; returns the seconds it took. Raises RuntimeError where the service refuses."""
    wish = {"arm": "main"} | ({"rollback": True} if number % 5 == 4 else {"bundle": NAMES[(number + 1) % 2]})
    async with httpx.AsyncClient(timeout=RELOAD_LIMIT_S) as client:
        reply = await client.post(f"{target.url}/admin/reload", json=wish, headers={"X-Admin-Key": KEY})
    if reply.status_code != 200 or not reply.json()["changed"]:
        raise RuntimeError(f"swap {number} with {wish}: {reply.text}")
    return float(reply.json()["seconds"])


def memory_mb(target: Target) -> float:
    """Resident, of the service and the processes that it started, without redis-server."""
    whole = psutil.Process(target.pid)
    processes = [whole, *whole.children(recursive=True)]
    return sum(p.memory_info().rss for p in processes if "redis" not in p.name()) / 2**20


async def run(load: Load, swaps: int) -> tuple[list[float], list[float]]:
    """(seconds of each swap, memory after each)."""
    clients = [asyncio.create_task(load.work(n)) for n in range(CONNECTIONS)]
    seconds, memory = [], []
    for number in range(swaps):
        await asyncio.sleep(REST_S)
        seconds.append(await swap(load.target, number))
        memory.append(round(memory_mb(load.target), 1))
    await asyncio.sleep(REST_S)
    load.is_over = True
    # a connection that was lost raises here: a failed run has no row
    await asyncio.gather(*clients)
    return seconds, memory


def count_mixed(load: Load, folder: Path) -> dict[str, int]:
    """Answers by bundle, and how many are not that bundle's own."""
    arms = {arm.release.bundle: arm for arm in (load_arm("main", folder / name, "cpu") for name in NAMES)}
    counted = dict.fromkeys([*arms, "mixed"], 0)
    for body, answer in load.answers:
        counted[answer["bundle"]] += 1
        counted["mixed"] += expected(arms[answer["bundle"]], body) != answer["items"]
    return counted


def measure(layout: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sizes = Sizes(num_items=options.items)
    given = ("--admin-key", KEY, "--request-timeout-ms", str(options.timeout_ms), *LAYOUTS[layout])
    with serving({"main": folder / "own"}, *given) as target:
        load = Load(target, requests(sizes.num_items, 10**9, options.seed), options.rate)
        seconds, memory = asyncio.run(run(load, options.swaps))
    counted = count_mixed(load, folder)
    settled = memory[min(1, len(memory) - 1)]
    return {
        "layout": layout,
        "swaps": options.swaps,
        "requests": len(load.answers) + load.num_failed,
        "failed": load.num_failed,
        "mixed": counted.pop("mixed"),
        "answers_by_bundle": counted,
        "swap_seconds": {"median": round(float(np.median(seconds)), 2), "longest": round(max(seconds), 2)},
        "latency_ms": {f"p{q}": round(float(np.percentile(load.latencies_ms, q)), 1) for q in (50, 99)},
        "memory_mb": {"after_two": settled, "end": memory[-1], "growth": round(memory[-1] / settled - 1, 4)},
        "items": sizes.num_items,
        "rate": options.rate,
        "timeout_ms": options.timeout_ms,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, load {psutil.getloadavg()[0]:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--timeout-ms", type=float, default=1000, help="the service's own deadline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON Lines; a row a layout is added")
    options = parser.parse_args()
    pin_compute_threads()
    with tempfile.TemporaryDirectory() as folder:
        make_bundles(Path(folder), Sizes(num_items=options.items))
        for layout in LAYOUTS:
            line = json.dumps(measure(layout, options, Path(folder)))
            if options.output:
                with options.output.open("a", encoding="utf-8") as rows:
                    rows.write(line + "\n")
            print(line)


if __name__ == "__main__":
    main()
