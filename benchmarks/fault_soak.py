"""A soak with a random fault a minute: what clients got that no fault explains, and whether anything grows.

    python -m benchmarks.fault_soak --minutes 60 --output benchmarks/results/fault_soak.jsonl

Mixed requests at a fixed rate; each minute one fault of benchmarks/soak_faults.py, in rounds of random order, so that
each comes in turn. A fault is over once /ready says that all is well. Unexplained: a request without a 200 (202 of
feedback) that the fault under way does not explain, or one while there was none. At the end of each minute memory,
descriptors, threads and tasks are read; the slope of the memory is that of a line through all after the warm-up, by
process. A process that was started again begins a line and a warm-up of its own, and the longest counts. What could not
be done or read is named in `not_recovered`. One JSON line a layout.
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
from redis.exceptions import RedisError

from benchmarks.canary import HANGING
from benchmarks.compose_redis import consuming
from benchmarks.fault_proxy import FaultProxy
from benchmarks.hanging import SWITCH
from benchmarks.hot_swaps import make_bundles
from benchmarks.soak_faults import ARM, EXPERIMENTS, FAULTS, Scene, SoakFault
from benchmarks.steady import (
    KEY,
    LAYOUTS,
    MAX_SHOWN,
    Body,
    Miss,
    SteadyLoad,
    add_row,
    processes_of,
    where_and_when,
)
from recall.bench.bundles import Sizes
from recall.bench.target import Target, serving
from service.stores.embedded_redis import EmbeddedRedis

MINUTE_S, BACK_S, NUM_USERS = 60.0, 50.0, 500
CALM = "calm"
# what a fault raises that finds its process gone, its Redis away, its answer of another form; the soak goes on
BROKEN = (RuntimeError, OSError, LookupError, ValueError, httpx.HTTPError, psutil.Error, RedisError)
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
    totals: dict[str, dict[int, int]] = field(default_factory=dict)  # of all processes, by name and minute's number
    recovered_s: dict[str, list[float]] = field(default_factory=dict)
    # faults that could not be done or were not recovered from, and minutes whose end could not be read
    broken: list[str] = field(default_factory=list)

    async def read(self, number: int, minute: float, scene: Scene) -> None:
        """Reads the processes at the end of a minute, without what is being asked just then. Raises BROKEN."""
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
        # the fewest of some looks: those of requests under way come and go
        tasks = min([await num_tasks(scene.admin) for _ in range(8)])
        for name, total in (("descriptors", num_descriptors), ("threads", num_threads), ("tasks", tasks)):
            self.totals.setdefault(name, {})[number] = total

    def after(self, warmup: int) -> dict[str, dict[str, int]]:
        """The totals since the warm-up; the last ones of a run that was shorter, none where nothing was read."""
        known: dict[str, dict[str, int]] = {}
        for name, totals in self.totals.items():
            late = [total for number, total in totals.items() if number >= warmup] or [*totals.values()][-1:]
            known[name] = {"after_warm_up": late[0], "end": late[-1], "most": max(late)}
        return known

    def slopes(self, warmup: float) -> dict[str, dict[str, Any]]:
        """The memory of each kind of process: of the one that was there longest after its warm-up, in minutes."""
        longest: dict[str, dict[str, Any]] = {}
        for pid, line in self.memory_mb.items():
            # from its own first point on: one that was started again late grows as the first one did
            since = line[0][0] + warmup
            minutes, memory = np.array([point for point in line if point[0] >= since]).reshape(-1, 2).T
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


async def what_is_wrong(admin: httpx.AsyncClient) -> str:
    """Says what does not answer or is degraded, in whichever process is asked; empty where all is well."""
    try:
        replies = [await admin.get("/ready", headers={"connection": "close"}) for _ in range(4)]
    except httpx.HTTPError as error:
        return repr(error)
    wrong = {f"{reply.status_code} {reply.json()['degraded']}" for reply in replies}
    return ", ".join(sorted(wrong - {"200 []"}))


async def until_well(scene: Scene, limit_s: float) -> float:
    """The seconds until all was well. Raises RuntimeError with what is not after `limit_s`, and BROKEN."""
    healed = time.monotonic()
    while wrong := await what_is_wrong(scene.admin):
        if time.monotonic() - healed > limit_s:
            raise RuntimeError(f"not well after {limit_s:.0f} s: {wrong}")
        await asyncio.sleep(0.2)
    return time.monotonic() - healed


async def hurt(chosen: SoakFault, scene: Scene, load: SteadyLoad, minutes: Minutes) -> None:
    """Does a fault, and waits until all is well again."""
    load.moment = chosen.name
    try:
        await chosen.act(scene)
        seconds = await until_well(scene, BACK_S)
        minutes.recovered_s.setdefault(chosen.name, []).append(round(seconds, 1))
    except BROKEN as error:
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
            try:
                await minutes.read(number, (time.monotonic() - began) / MINUTE_S, scene)
            except BROKEN as error:
                minutes.broken.append(f"minute {number} read: {error!r}"[:300])
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
        # without a consumer /ready would warn of events that nobody takes
        stack.enter_context(consuming(["events", "consume", "--output", str(folder / "events")], redis.url))
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
        # memory is read by the clock, and a minute of a try is shorter
        "memory": minutes.slopes(options.warmup_minutes * options.minute_s / MINUTE_S),
        **minutes.after(options.warmup_minutes),
        "floods": scene.floods,
        "rate": options.rate,
        "warmup_minutes": options.warmup_minutes,
        "seed": options.seed,
        "beside": options.beside,
        **where_and_when(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--warmup-minutes", type=int, default=20, help="of each process, before it is judged")
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
            add_row(measure(layout, options, Path(folder)), options.output)


if __name__ == "__main__":
    main()
