"""Hot swaps under load: each answer against the bundle that it names, in one process and with two HTTP processes.

    python -m benchmarks.hot_swaps --swaps 50 --output benchmarks/results/hot_swaps.jsonl

Two bundles of one size take turns; their weights differ, and so do the ids behind their rows, so that a row read by the
wrong catalogue shows. Clients send at a fixed rate while bundles are swapped by POST /admin/reload, every fifth time by
a roll back. Failed: no answer, another status than 200 (`misses` says what came), or a fallback. Mixed: an answer whose
list is not, id for id, what the bundle it names answers alone. The oracle is the engine's own `compute`, afterwards.
Memory: of the service with all its processes, after the first two swaps and at the end. One JSON line a layout.
"""

import argparse
import asyncio
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.soak import expected, requests
from benchmarks.steady import KEY, LAYOUTS, MAX_SHOWN, Body, SteadyLoad, add_row, processes_of, where_and_when
from index.bundle.build import build_bundle
from model.catalogue import Catalogue, IdMap
from model.encoder import pin_compute_threads
from recall.bench.bundles import Sizes, make_checkpoint
from recall.bench.target import Target, serving
from service.engine.loading import load_arm

CONNECTIONS, REST_S, RELOAD_LIMIT_S = 16, 0.3, 300
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
class Answers:
    """The requests answered by a bundle, with their answers."""

    kept: list[tuple[Body, dict[str, Any]]] = field(default_factory=list)
    num_fallbacks: int = 0

    def take(self, body: Body, answer: dict[str, Any]) -> None:
        if "fallback" in answer["degraded"]:
            self.num_fallbacks += 1
        else:
            self.kept.append((body, answer))


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
    return sum(process.memory_info().rss for process in processes_of(target)) / 2**20


async def run(load: SteadyLoad, swaps: int) -> tuple[list[float], list[float]]:
    """(seconds of each swap, memory after each)."""
    seconds, memory = [], []
    async with load.sending():
        for number in range(swaps):
            load.moment = f"after swap {number}"
            await asyncio.sleep(REST_S)
            load.moment = f"during swap {number + 1}"
            seconds.append(await swap(load.target, number))
            memory.append(round(memory_mb(load.target), 1))
        load.moment = "after the last swap"
        await asyncio.sleep(REST_S)
    return seconds, memory


def count_mixed(answers: Answers, folder: Path) -> dict[str, int]:
    """Answers by bundle, and how many are not that bundle's own."""
    arms = {arm.release.bundle: arm for arm in (load_arm("main", folder / name, "cpu") for name in NAMES)}
    counted = dict.fromkeys([*arms, "mixed"], 0)
    for body, answer in answers.kept:
        counted[answer["bundle"]] += 1
        counted["mixed"] += expected(arms[answer["bundle"]], body) != answer["items"]
    return counted


def measure(layout: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sizes = Sizes(num_items=options.items)
    given = ("--admin-key", KEY, "--request-timeout-ms", str(options.timeout_ms), *LAYOUTS[layout])
    answers = Answers()
    with serving({"main": folder / "own"}, *given) as target:
        todo = (("/recall", body) for body in requests(sizes.num_items, 10**9, options.seed))
        load = SteadyLoad(target, todo, options.rate, answers.take, CONNECTIONS)
        seconds, memory = asyncio.run(run(load, options.swaps))
    counted = count_mixed(answers, folder)
    settled = memory[min(1, len(memory) - 1)]
    return {
        "layout": layout,
        "swaps": options.swaps,
        "requests": load.num_asked,
        "failed": len(load.misses) + answers.num_fallbacks,
        "misses": [miss.to_json() for miss in load.misses[:MAX_SHOWN]],
        "fallbacks": answers.num_fallbacks,
        "reopened": load.num_reopened,
        "mixed": counted.pop("mixed"),
        "answers_by_bundle": counted,
        "swap_seconds": {"median": round(float(np.median(seconds)), 2), "longest": round(max(seconds), 2)},
        "latency_ms": {f"p{q}": round(float(np.percentile(load.latencies_ms, q)), 1) for q in (50, 99)},
        "memory_mb": {"after_two": settled, "end": memory[-1], "growth": round(memory[-1] / settled - 1, 4)},
        "items": sizes.num_items,
        "rate": options.rate,
        "timeout_ms": options.timeout_ms,
        **where_and_when(),
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
            add_row(measure(layout, options, Path(folder)), options.output)


if __name__ == "__main__":
    main()
