"""A soak with a random fault a minute: what clients got that no fault explains, and whether anything grows.

    python -m benchmarks.fault_soak --minutes 60 --output benchmarks/results/fault_soak.jsonl

Mixed requests at a fixed rate; each minute one fault of benchmarks/soak_faults.py, in rounds of random order, so that
each comes in turn. A fault is over once /ready says that all is well. Unexplained: a request without a 200 (202 of
feedback) that the fault under way does not explain, or one while there was none. At the end of each minute memory,
descriptors, threads and tasks are read; the slope of the memory is that of a line through all after the warm-up, by
process. A process that was started again begins a line of its own, and the longest counts. One JSON line a layout.
"""

import argparse
import asyncio
import json
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.canary import HANGING
from benchmarks.fault_proxy import FaultProxy
from benchmarks.hanging import SWITCH
from benchmarks.hot_swaps import make_bundles
from benchmarks.soak_faults import ARM, EXPERIMENTS, FAULTS, KEY, Scene, SoakFault
from benchmarks.steady import LAYOUTS, Body, Miss, SteadyLoad, processes_of, where_and_when
from recall.bench.bundles import Sizes
from recall.bench.target import Target, serving
from service.stores.embedded_redis import EmbeddedRedis

MINUTE_S, BACK_S, NUM_USERS, MAX_SHOWN = 60.0, 50.0, 500, 50
CALM = "calm"
# patient, because a starved machine is no fault of the service; a small cache, so that it is full after the warm-up
OPTIONS = (
    *("--admin-key", KEY, "--memory-cache-mb", "4", "--watch-experiments-s", "1"),
    *("--request-timeout-ms", "10000", "--engine-stall-ms", "4000", "--events-timeout-ms", "2000"),
    *("--target-wait-ms", "500"),
)


def requests(num_items: int, seed: int) -> Iterator[tuple[str, Body]]:
    """Lists with a history, lists of users, batches, vectors, and feedback."""
    rng = np.random.default_rng(seed)
    while True:
        history = rng.integers(0, int(num_items * 1.05), rng.integers(0, 61)).tolist()
        user = int(rng.integers(NUM_USERS))
        choice = rng.random()
        if choice < 0.45:
            yield "/recall", {"user_id": user, "history": history, "top_n": int(rng.integers(1, 201))}
        elif choice < 0.65:
            yield "/recall", {"user_id": user, "not_shown": bool(rng.random() < 0.3)}
        elif choice < 0.75:
            yield "/recall/batch", {"requests": [{"history": history[n:]} for n in range(5)]}
        elif choice < 0.8:
            yield "/embed", {"history": history}
        else:
            yield "/feedback", {"user_id": user, "item_id": int(rng.integers(num_items)), "action": "play"}


@dataclass
class Minutes:
    """The readings at the end of each minute, by process id, and how long each fault took to heal."""

    memory_mb: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # (minute, resident)
    kinds: dict[int, str] = field(default_factory=dict)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    recovered_s: dict[str, list[float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)  # faults that could not be done, or were not recovered from

    async def read(self, minute: float, scene: Scene) -> None:
        """Reads the processes, without what is being asked just then."""
        num_descriptors, num_threads = 0, 0
        for process in processes_of(scene.target):
            try:
                kind = next((word for word in process.cmdline() if word.startswith("service.")), "service")
                mb = round(process.memory_info().rss / 2**20, 1)
                num_descriptors += process.num_fds()
                num_threads += process.num_threads()
            except psutil.Error:
                continue
            self.kinds[process.pid] = kind
            self.memory_mb.setdefault(process.pid, []).append((round(minute, 2), mb))
        self.descriptors.append(num_descriptors)
        self.threads.append(num_threads)
        # the fewest of some looks: those of requests under way come and go
        self.tasks.append(min([await num_tasks(scene.admin) for _ in range(8)]))

    def slopes(self, warmup: float) -> dict[str, dict[str, Any]]:
        """The memory of each kind of process: of the one that was there longest after the warm-up."""
        longest: dict[str, dict[str, Any]] = {}
        for pid, line in self.memory_mb.items():
            minutes, memory = np.array([point for point in line if point[0] >= warmup]).reshape(-1, 2).T
            if len(minutes) < 3 or len(minutes) <= longest.get(self.kinds[pid], {}).get("minutes", 0):
                continue
            slope = np.polyfit(minutes, memory, 1)[0]
            longest[self.kinds[pid]] = {
                "minutes": len(minutes),
                "share_an_hour": round(60 * slope / memory.mean(), 4),
                "memory_mb": [memory[0], memory[-1]],
                "line": [mb for _, mb in line],
            }
        return longest


async def num_tasks(admin: httpx.AsyncClient) -> int:
    """Tasks of all processes of the service."""
    text = (await admin.get("/metrics")).text
    return sum(int(float(n)) for n in re.findall(r"^recall_process_tasks\{.*\} (\S+)$", text, re.MULTILINE))


async def is_well(admin: httpx.AsyncClient) -> bool:
    """True where everything answers and nothing is degraded, in whichever process is asked."""
    try:
        replies = [await admin.get("/ready", headers={"connection": "close"}) for _ in range(4)]
    except httpx.HTTPError:
        return False
    return all(reply.status_code == 200 and not reply.json()["degraded"] for reply in replies)


async def hurt(chosen: SoakFault, scene: Scene, load: SteadyLoad, minutes: Minutes) -> None:
    """Does a fault, and waits until all is well again."""
    load.moment = chosen.name
    try:
        await chosen.act(scene)
        healed = time.monotonic()
        while not await is_well(scene.admin):
            if time.monotonic() - healed > BACK_S:
                raise RuntimeError(f"not well after {BACK_S:.0f} s")
            await asyncio.sleep(0.2)
        minutes.recovered_s.setdefault(chosen.name, []).append(round(time.monotonic() - healed, 1))
    except (RuntimeError, OSError, httpx.HTTPError) as error:
        minutes.broken.append(f"{chosen.name}: {error!r}"[:300])
    # what is under way ends within its deadline; a minute is long enough for that too
    await asyncio.sleep(2)
    load.moment = CALM


async def soak(scene: Scene, load: SteadyLoad, faults: list[SoakFault], options: argparse.Namespace) -> Minutes:
    minutes, chosen, began = Minutes(), random.Random(options.seed), time.monotonic()
    load.moment = CALM
    async with load.sending():
        turn: list[SoakFault] = []
        for number in range(options.minutes):
            turn = turn or chosen.sample(faults, len(faults))
            # some time within the first half of its minute, so that the rest sees it healed
            await asyncio.sleep(chosen.uniform(1, options.minute_s / 4))
            await hurt(turn.pop(), scene, load, minutes)
            await asyncio.sleep(max(0.0, began + options.minute_s * (number + 1) - 2 - time.monotonic()))
            await minutes.read((time.monotonic() - began) / MINUTE_S, scene)
    return minutes


def is_explained(miss: Miss, faults: dict[str, SoakFault]) -> bool:
    """True where a fault that was there when it was asked, or when its answer came, explains it."""
    moments = {miss.moment, miss.ended_in} - {CALM}
    return any(faults[moment].covers(miss.path, miss) for moment in moments)


def measure(layout: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    faults = {each.name: each for each in FAULTS if LAYOUTS[layout] or not each.needs_processes}
    faults = {name: each for name, each in faults.items() if not options.only or name in options.only}
    (folder / "switch").write_text("")
    (folder / "experiments.json").write_text(json.dumps(EXPERIMENTS))
    os.environ[SWITCH] = str(folder / "switch")
    statuses: Counter[str] = Counter()

    def take(_: Body, answer: dict[str, Any]) -> None:
        statuses["fallback" if "fallback" in answer.get("degraded", []) else "whole"] += 1

    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        proxy = stack.enter_context(FaultProxy(redis.url.removeprefix("unix://")))
        given = ("--redis-url", proxy.url, "--experiments", str(folder / "experiments.json"), *OPTIONS)
        target: Target = stack.enter_context(serving({ARM: folder / "own"}, *given, *LAYOUTS[layout], checkout=HANGING))
        load = SteadyLoad(target, requests(options.items, options.seed), options.rate, take)

        async def run() -> tuple[Minutes, Scene]:
            headers = {"X-Admin-Key": KEY}
            async with httpx.AsyncClient(base_url=target.url, timeout=60, headers=headers) as admin:
                scene = Scene(target, redis, proxy, folder, admin, options.rate, options.items)
                return await soak(scene, load, [*faults.values()], options), scene

        minutes, scene = asyncio.run(run())
    unexplained = [miss for miss in load.misses if not is_explained(miss, faults)]
    late = [n for n in range(options.minutes) if n >= options.warmup_minutes] or [options.minutes - 1]
    return {
        "layout": layout,
        "minutes": options.minutes,
        "faults": sum(map(len, minutes.recovered_s.values())),
        "not_recovered": minutes.broken,
        "requests": load.num_asked,
        "answers": dict(statuses),
        "missed": dict(Counter(f"{miss.moment}: {miss.status or 'no answer'}" for miss in load.misses)),
        "unexplained": len(unexplained),
        "unexplained_5xx": sum(miss.status is None or miss.status >= 500 for miss in unexplained),
        "unexplained_shown": [miss.to_json() for miss in unexplained[:MAX_SHOWN]],
        "recovered_s": {name: max(times) for name, times in sorted(minutes.recovered_s.items())},
        "memory": minutes.slopes(options.warmup_minutes),
        **{
            name: {"after_warm_up": values[late[0]], "end": values[-1], "most": max(values[late[0] :])}
            for name, values in (
                ("descriptors", minutes.descriptors),
                ("threads", minutes.threads),
                ("tasks", minutes.tasks),
            )
        },
        "floods": scene.facts.get("floods", []),
        "rate": options.rate,
        "warmup_minutes": options.warmup_minutes,
        "seed": options.seed,
        "beside": options.beside,
        **where_and_when(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--warmup-minutes", type=int, default=20, help="before memory is judged")
    parser.add_argument("--minute-s", type=float, default=MINUTE_S, help="shorter minutes, for a try")
    parser.add_argument("--rate", type=float, default=15, help="requests a second")
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=[*LAYOUTS], nargs="*", default=[*LAYOUTS])
    parser.add_argument("--only", nargs="*", help="names of faults")
    parser.add_argument("--beside", default="", help="programs that had the machine too, for the row")
    parser.add_argument("--output", type=Path, help="JSON Lines; a row a layout is added")
    options = parser.parse_args()
    for layout in options.layout:
        with tempfile.TemporaryDirectory() as folder:
            make_bundles(Path(folder), Sizes(num_items=options.items))
            line = json.dumps(measure(layout, options, Path(folder)))
        if options.output:
            with options.output.open("a", encoding="utf-8") as rows:
                rows.write(line + "\n")
        print(line)


if __name__ == "__main__":
    main()
