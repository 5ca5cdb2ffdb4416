"""Memory that one kind of fault leaves behind: each repeated quickly, with the memory of every process after each ten.

    python -m benchmarks.fault_growth --layout "one process" --times 30 --only "another bundle" "Redis killed"

The soak (benchmarks/fault_soak.py) mixes its faults, so that a slope of its memory names none. Here a service under
the soak's load has one kind of fault at a time, `--times` of it, and after each `--every` its processes are read: the
resident memory, what the C library has handed out and what lies free in its heap, the blocks of Python, and the types
of which there are more objects than before. With `--tidy` garbage is collected and the heap trimmed at each reading,
and `collected` says how much there was: what this takes away nobody held. A thread in each process reads it (this
module starts them); only faults that leave the processes in place can be compared. One JSON line a process.
"""

import argparse
import asyncio
import ctypes
import gc
import json
import os
import runpy
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import hanging
from benchmarks.compose_redis import consuming
from benchmarks.fault_proxy import FaultProxy
from benchmarks.fault_soak import BROKEN, OPTIONS, requests, until_well
from benchmarks.hanging import MODULE, SWITCH
from benchmarks.hot_swaps import make_bundles
from benchmarks.soak_faults import ARM, EXPERIMENTS, FAULTS, Scene, SoakFault
from benchmarks.steady import KEY, LAYOUTS, SteadyLoad, processes_of
from recall.__main__ import main as recall
from recall.bench.bundles import Sizes
from recall.bench.target import Checkout, serving
from service.memory import release_memory
from service.processes import supervisor
from service.stores.embedded_redis import EmbeddedRedis

FOLDER = "RECALL_TEST_MEMORY"  # the variable with the folder of questions and answers
PROCESSES = "service.processes."  # the beginning of the modules that the supervisor starts
LOOK_S, ANSWER_S, WELL_S, SETTLE_S = 0.1, 30, 20, 3
TIDY, LOOK = "tidy", "look"
MAX_TYPES = 6


def command(module: str) -> list[str]:
    """The command of a process that the supervisor starts, with its thread."""
    return [sys.executable, "-m", "benchmarks.fault_growth", MODULE, module]


CHECKOUT = Checkout(command("recall"))


class Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def resident_mb() -> float:
    return round(psutil.Process().memory_info().rss / 2**20, 1)


def report(tidies: bool) -> dict[str, Any]:
    """The memory of this process. tidies: garbage is collected and the heap trimmed on the way."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Heap
    before, blocks = resident_mb(), sys.getallocatedblocks()
    types = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    collected = gc.collect() if tidies else None
    heap = libc.mallinfo2()
    if tidies:
        release_memory()
    return {
        "resident_mb": before,
        "trimmed_mb": resident_mb() if tidies else None,
        "in_use_mb": round((heap.uordblks + heap.hblkhd) / 2**20, 2),
        "free_mb": round(heap.fordblks / 2**20, 1),
        "blocks": blocks,
        "collected": collected,
        "frozen": gc.get_freeze_count(),
        "types": types,
    }


def answer_questions(folder: Path) -> None:
    """Writes a report for each question that is asked of this process, for good."""
    question, answer = folder / f"{os.getpid()}.ask", folder / f"{os.getpid()}.json"
    while True:
        time.sleep(LOOK_S)
        if question.exists():
            tidies = question.read_text() == TIDY
            question.unlink()
            answer.with_suffix(".new").write_text(json.dumps(report(tidies)))
            answer.with_suffix(".new").replace(answer)


def ask(pid: int, folder: Path, wish: str) -> dict[str, Any] | None:
    """The report of a process; None where it gives none."""
    answer = folder / f"{pid}.json"
    answer.unlink(missing_ok=True)
    (folder / f"{pid}.wish").write_text(wish)
    (folder / f"{pid}.wish").replace(folder / f"{pid}.ask")
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        if answer.exists():
            told: dict[str, Any] = json.loads(answer.read_text())
            return told
        time.sleep(LOOK_S)
    return None


def be_a_process(module: str) -> None:
    """Runs a part of the service, or the command `recall`, with the thread and with the switch of hanging engines."""
    threading.Thread(target=answer_questions, args=(Path(os.environ[FOLDER]),), daemon=True).start()
    hanging.install()
    setattr(supervisor, "module_command", command)  # noqa: B010  (of the product, for this process alone)
    if module == "recall":
        recall()
    else:
        runpy.run_module(module, run_name="__main__")


def kind_of(process: psutil.Process) -> str:
    modules = (word.removeprefix(PROCESSES) for word in process.cmdline() if word.startswith(PROCESSES))
    return next(modules, "service")


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


class Readings:
    """The reports of all processes, and what each has more of than before."""

    def __init__(self, scene: Scene, folder: Path, wish: str) -> None:
        self._scene, self._folder, self._wish = scene, folder, wish
        self._types: dict[int, Counter[str]] = {}

    async def show(self, after: str) -> None:
        # what is under way ends
        await asyncio.sleep(SETTLE_S)
        for process in processes_of(self._scene.target):
            facts = await asyncio.to_thread(ask, process.pid, self._folder, self._wish)
            if facts is None:
                continue
            types = Counter(facts.pop("types"))
            more = dict((types - self._types.get(process.pid, Counter())).most_common(MAX_TYPES))
            self._types[process.pid] = types
            say({"after": after, "process": kind_of(process), "pid": process.pid, **facts, "more": more})


async def repeat(fault: SoakFault, scene: Scene, readings: Readings, options: argparse.Namespace) -> None:
    for number in range(1, options.times + 1):
        try:
            await fault.act(scene)
            await until_well(scene, WELL_S)
        except BROKEN as error:
            say({"fault": fault.name, "number": number, "error": repr(error)[:300]})
        if number % options.every == 0:
            await readings.show(f"{number} x {fault.name}")


async def run(
    scene: Scene, load: SteadyLoad, faults: Sequence[SoakFault], readings: Readings, options: argparse.Namespace
) -> None:
    async with load.sending():
        for _ in range(2):
            await asyncio.sleep(options.warmup_s)
            await readings.show("nothing")
        for fault in faults:
            await repeat(fault, scene, readings, options)
    say({"asked": load.num_asked, "missed": Counter(f"{miss.path} {miss.status}" for miss in load.misses)})


def measure(options: argparse.Namespace, folder: Path) -> None:
    chosen = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    (folder / "switch").write_text("")
    (folder / "experiments.json").write_text(json.dumps(EXPERIMENTS))
    (folder / "memory").mkdir()
    os.environ |= {SWITCH: str(folder / "switch"), FOLDER: str(folder / "memory")}
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        proxy = stack.enter_context(FaultProxy(redis.url.removeprefix("unix://")))
        stack.enter_context(consuming(["events", "consume", "--output", str(folder / "events")], redis.url))
        given = ("--redis-url", proxy.url, "--experiments", str(folder / "experiments.json"), *OPTIONS)
        layout = LAYOUTS[options.layout]
        target = stack.enter_context(serving({ARM: folder / "own"}, *given, *layout, checkout=CHECKOUT))
        load = SteadyLoad(target, requests(options.items, options.seed), options.rate, lambda *_: None)

        async def main() -> None:
            async with httpx.AsyncClient(base_url=target.url, timeout=60, headers={"X-Admin-Key": KEY}) as admin:
                scene = Scene(target, redis, proxy, folder, admin, options.rate, options.items, hold_s=options.hold_s)
                readings = Readings(scene, folder / "memory", TIDY if options.tidy else LOOK)
                await run(scene, load, [fault for fault in chosen if not fault.needs_processes], readings, options)

        asyncio.run(main())


def main() -> None:
    if sys.argv[1:2] == [MODULE]:
        _, _, module, *words = sys.argv
        sys.argv = ["recall", *words]
        be_a_process(module)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=[*LAYOUTS], default="one process")
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--hold-s", type=float, default=1.5, help="seconds of a fault that has no end of its own")
    parser.add_argument("--warmup-s", type=float, default=60)
    parser.add_argument("--rate", type=float, default=30, help="requests a second")
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tidy", action="store_true", help="collect garbage and trim at each reading")
    parser.add_argument("--only", nargs="*", help="names of faults")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_bundles(Path(folder), Sizes(num_items=options.items))
        measure(options, Path(folder))


if __name__ == "__main__":
    main()
