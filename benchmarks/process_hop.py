"""CPU of the engine process and of a process that asks it, a user: without HTTP, with a stand-in for a card.

    python -m benchmarks.process_hop

The stand-in fills a lane as the card's is filled, waits as long as an H200 takes for a batch of that size, and copies
answers of its size; so what is measured is the host's own work, on any machine. Closed loop: so many requests, or
blocks of 64 users, are asked at once. CPU seconds of each process, over the users answered; medians of three runs.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import psutil
import uvloop

from index.exact import ExactIndex
from model.columns import Columns
from model.device.layout import Answers, Layout, fill
from model.device.recall import DeviceRecall
from model.encoder import UserEncoder
from model.records import History
from recall.bench.bundles import Sizes, make_checkpoint
from service.engine.arms import ArmSlot, Release
from service.engine.blocks import RequestBlock
from service.engine.compute import BatchCompute
from service.engine.engine import Engine
from service.engine.graphs import GraphCompute
from service.engine.messages import EngineRequest
from service.engine.protocols import SilentObserver
from service.reload.reloader import Reloader
from service.remote.engine import RemoteEngine
from service.remote.link import EngineLink
from service.remote.server import EngineServer

NUM_ITEMS, LENGTH, LIMIT, DIM, USERS = 400, 50, 100, 128, 64
CARD_S = {1: 360e-6, 8: 400e-6, 32: 450e-6, 64: 500e-6, 128: 600e-6, 256: 899e-6}  # docs/performance.md, On a GPU
LAYOUT = Layout(LENGTH, 128, NUM_ITEMS, 1, 2)
RUNS, BUNDLE = 3, "b" * 16


class StandInLane:
    """One batch at a time."""

    def __init__(self, size: int) -> None:
        draws = np.random.default_rng(size)
        self.size, self.matrix, self.until = size, np.zeros((size, LAYOUT.width), dtype=np.int32), 0.0
        self._answers = Answers(
            np.stack([draws.permutation(NUM_ITEMS)[:LIMIT] + 1 for _ in range(size)]),
            np.ones((size, 1), dtype=np.int64),
            draws.normal(size=(size, LIMIT)).astype(np.float32),
            draws.normal(size=(size, 2, DIM)).astype(np.float32),
            np.zeros((size, LIMIT), dtype=np.int32),
            np.zeros(size, dtype=np.int32),
        )

    def copied(self, users: int) -> Answers:
        time.sleep(max(0.0, self.until - time.perf_counter()))
        return Answers._make(column[:users].copy() for column in self._answers)


class StandInTicket(NamedTuple):
    """A batch under way."""

    lane: StandInLane
    users: int


class StandInRecall(DeviceRecall):
    """Answers nothing in particular, as late as a card would."""

    def __init__(self) -> None:
        # the lanes of a card need one; what it takes and refuses is decided as there
        self.sizes, self._layout, self._limit = tuple(CARD_S), LAYOUT, LIMIT
        self._lanes: dict[int, SimpleQueue[StandInLane]] = {size: SimpleQueue() for size in CARD_S}
        for lane in [StandInLane(size) for size in CARD_S for _ in range(2)]:
            self._lanes[lane.size].put(lane)
        self._card_free_at = 0.0

    def start(self, columns: Columns) -> Any:
        size = next(size for size in CARD_S if size >= columns.size)
        lane = self._lanes[size].get()
        fill(lane.matrix, LAYOUT, columns)
        # the card computes a batch after the other
        self._card_free_at = lane.until = max(time.perf_counter(), self._card_free_at) + CARD_S[size]
        return StandInTicket(lane, columns.size)

    def finish(self, ticket: Any) -> Answers:
        under_way: StandInTicket = ticket
        try:
            return under_way.lane.copied(under_way.users)
        finally:
            self._lanes[under_way.lane.size].put(under_way.lane)


def serve(address: str, ready: Event) -> None:
    """The engine process."""

    async def run() -> None:
        checkpoint = make_checkpoint(Sizes(num_items=NUM_ITEMS, dim=DIM))
        encoder = UserEncoder(checkpoint)
        # the general path is there, and never asked: the stand-in takes all
        general = BatchCompute(encoder, ExactIndex(encoder.item_vectors().numpy()), checkpoint.plan)
        engine = Engine(GraphCompute(StandInRecall(), general))
        release = Release("a", "recgpt", BUNDLE, checkpoint.catalogue, checkpoint.plan, "p", LENGTH, engine)
        arms = {"a": ArmSlot(release)}
        releases = Reloader(arms, {"a": Path()}, lambda _, __: arms["a"].current)
        server = EngineServer(address, arms, str, SilentObserver(), releases)
        ready.set()
        await asyncio.Event().wait()
        await server.close()

    uvloop.run(run())


async def ask(address: str, at_once: int, users: int, seconds: float) -> int:
    """The users answered in that time."""
    link, draws = EngineLink(address, str, SilentObserver()), np.random.default_rng(0)
    remote, until, answered = RemoteEngine("a", BUNDLE, link), time.monotonic() + seconds, 0
    histories = [History(tuple(row)) for row in draws.integers(1, NUM_ITEMS + 1, (users, LENGTH)).tolist()]
    columns = Columns.of(histories, [LIMIT] * users, [history.items for history in histories])

    async def go_on() -> None:
        nonlocal answered
        while (now := time.monotonic()) < until:
            if users == 1:
                await remote.ask(EngineRequest(histories[0], LIMIT, histories[0].items, deadline=now + 5))
            else:
                await remote.ask_block(RequestBlock(columns, now + 5))
            answered += users

    await asyncio.gather(*(go_on() for _ in range(at_once)))
    await link.close()
    return answered


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a run")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        address, ready = f"ipc://{folder}/engine", context.Event()
        process = context.Process(target=serve, args=(address, ready), daemon=True)
        process.start()
        ready.wait()
        both = {"asking_us": psutil.Process(), "engine_us": psutil.Process(process.pid)}
        for at_once, users in ((1, 1), (16, 1), (64, 1), (1, USERS), (4, USERS)):
            runs = []
            for _ in range(RUNS):
                before = {name: cpu_s(one_of) for name, one_of in both.items()}
                answered = uvloop.run(ask(address, at_once, users, options.seconds))
                runs.append({name: 1e6 * (cpu_s(one_of) - before[name]) / answered for name, one_of in both.items()})
            spent = {name: round(statistics.median(run[name] for run in runs), 1) for name in both}
            print(json.dumps({"at_once": at_once, "users": users, **spent}), flush=True)
        process.kill()


if __name__ == "__main__":
    main()
