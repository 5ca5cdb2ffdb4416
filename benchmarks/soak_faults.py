"""The faults of a soak: what is done to a running service, and which failures of its clients that explains.

A fault hurts and heals; what a client may see meanwhile is named by it, and everything else is unexplained. Redis is
behind a proxy (benchmarks/fault_proxy.py) and no child of the service; engine threads hang and die by a switch
(benchmarks/hanging.py).
"""

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis.asyncio

from benchmarks.fault_proxy import Fault, FaultProxy
from benchmarks.hot_swaps import NAMES
from benchmarks.steady import Miss
from recall.bench.target import Target, children_running
from recall.bench.traffic import Load
from recall.bench.trials import send
from service.processes.supervisor import HANG_S
from service.stores.embedded_redis import EmbeddedRedis

ARM = "main"
REFUSED = 422
HOLD_S = 8.0
NO_ANSWER = "no answer"
EXPERIMENTS = {"features": {"recall_arm": {"defaultValue": ARM}}}


@dataclass
class Scene:
    """The service under test, and what faults reach it by."""

    target: Target
    redis: EmbeddedRedis
    proxy: FaultProxy
    folder: Path  # with the bundles `own` and `other`, `switch` and `experiments.json`
    admin: httpx.AsyncClient
    rate: float  # of the steady load
    num_items: int
    swaps: int = 0
    floods: list[dict[str, int]] = field(default_factory=list)  # what came of each, by status
    hold_s: float = HOLD_S  # that a fault lasts which has no end of its own

    async def reload(self, **wish: Any) -> httpx.Response:
        return await self.admin.post("/admin/reload", json={"arm": ARM, **wish})

    def write(self, name: str, text: str) -> None:
        """Replaces a file in one step."""
        (self.folder / f"{name}.new").write_text(text)
        (self.folder / f"{name}.new").replace(self.folder / name)


Act = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class SoakFault:
    """One fault, and what it explains: (route, what came) with a status or NO_ANSWER; route `*` is any."""

    name: str
    act: Act
    explains: frozenset[tuple[str, str]]
    needs_processes: bool

    def covers(self, path: str, miss: Miss) -> bool:
        came = NO_ANSWER if miss.status is None else str(miss.status)
        return bool({(path, came), ("*", came)} & self.explains)


FAULTS: list[SoakFault] = []
EVENTS_AWAY = (("/feedback", "503"),)
GONE = (("*", NO_ANSWER),)
ENGINE_AWAY = (("*", "503"),)  # retryable; lists are answered by the fallback


def fault(name: str, *explains: tuple[str, str], needs_processes: bool = False) -> Callable[[Act], Act]:
    """Makes a function a fault of the soak."""

    def add(act: Act) -> Act:
        FAULTS.append(SoakFault(name, act, frozenset(explains), needs_processes))
        return act

    return add


@fault("Redis killed", *EVENTS_AWAY)
async def kill_redis(scene: Scene) -> None:
    os.kill(scene.redis.pid, signal.SIGKILL)
    await asyncio.sleep(scene.hold_s)
    await asyncio.to_thread(scene.redis.start)


@fault("Redis frozen", *EVENTS_AWAY)
async def freeze_redis(scene: Scene) -> None:
    os.kill(scene.redis.pid, signal.SIGSTOP)
    await asyncio.sleep(scene.hold_s)
    os.kill(scene.redis.pid, signal.SIGCONT)


def spoil(kind: Fault) -> Act:
    async def act(scene: Scene) -> None:
        scene.proxy.set(kind)
        await asyncio.sleep(scene.hold_s)
        scene.proxy.set(Fault.NONE)

    return act


for _kind in Fault:
    if _kind is not Fault.NONE:
        fault(f"Redis: {_kind.value}", *EVENTS_AWAY)(spoil(_kind))


@fault("Redis flushed")
async def flush_redis(scene: Scene) -> None:
    async with redis.asyncio.from_url(scene.redis.url) as client:
        await client.flushall()


@fault("another bundle")
async def swap(scene: Scene) -> None:
    scene.swaps += 1
    (await scene.reload(bundle=NAMES[scene.swaps % 2])).raise_for_status()


@fault("a broken bundle offered")
async def offer_broken(scene: Scene) -> None:
    broken = scene.folder / "broken"
    for name in NAMES:
        await asyncio.to_thread(copy_broken, scene.folder / name, broken)
        reply = await scene.reload(bundle="broken")
        # the one in force is not read again, so it cannot be found broken
        if reply.status_code == REFUSED:
            break
        if reply.is_error or reply.json()["changed"]:
            raise RuntimeError(f"a broken bundle: {reply.status_code} {reply.text[:200]}")
    else:
        raise RuntimeError("no broken bundle was refused")


def copy_broken(bundle: Path, broken: Path) -> None:
    """Copies a bundle and cuts its largest file in half."""
    shutil.copytree(bundle, broken, dirs_exist_ok=True)
    largest = max(broken.rglob("*.*"), key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


@fault("a canary, taken back")
async def try_canary(scene: Scene) -> None:
    (await scene.reload(bundle=NAMES[(scene.swaps + 1) % 2], canary={"share": 0.2})).raise_for_status()
    await asyncio.sleep(scene.hold_s)
    # it may have been taken back by itself: its lists are others
    await scene.reload(rollback=True) if await on_trial(scene) else None


async def on_trial(scene: Scene) -> bool:
    return (await scene.admin.get("/arms")).json()["arms"][ARM]["canary"] is not None


@fault("experiments changed")
async def change_experiments(scene: Scene) -> None:
    named = {"features": {**EXPERIMENTS["features"], f"f{scene.swaps}": {"defaultValue": "x"}}}
    await asyncio.to_thread(scene.write, "experiments.json", json.dumps(named))
    await asyncio.sleep(scene.hold_s)


@fault("experiments broken")
async def break_experiments(scene: Scene) -> None:
    await asyncio.to_thread(scene.write, "experiments.json", '{"features": {')
    await asyncio.sleep(scene.hold_s)
    await asyncio.to_thread(scene.write, "experiments.json", json.dumps(EXPERIMENTS))


@fault("ten times as many requests", ("*", "429"))
async def flood(scene: Scene) -> None:
    load = Load(port=scene.target.port, rate=10 * scene.rate, seconds=4, num_items=scene.num_items)
    measured = await asyncio.to_thread(send, load)
    scene.floods.append(measured.statuses | {"lost": measured.lost})


@fault("200 sockets that drip")
async def drip(scene: Scene) -> None:
    sockets = [await asyncio.open_connection(scene.target.host, scene.target.port) for _ in range(200)]
    for dripped in (b"POST /recall HTTP/1.1\r\nhost: a\r\n", *[b"x: 1\r\n"] * max(1, round(scene.hold_s))):
        for _, writer in sockets:
            with suppress(OSError):
                writer.write(dripped)
        await asyncio.sleep(1)
    for reader, writer in sockets:
        with suppress(OSError):
            await reader.read()
        writer.close()


@fault("bodies and headers that are abuse")
async def abuse(scene: Scene) -> None:
    bodies = [b"[" * 60_000, b'{"history": [%s]}' % (b"1" * 5000), b'{"user_id": "\xff"}', b"\x00", b"{" * 70_000]
    for body in bodies * 20:
        status = (await scene.admin.post("/recall", content=body)).status_code
        if status >= 500:
            raise RuntimeError(f"{status} for {body[:40]!r}")
    for _ in range(20):
        with suppress(OSError, httpx.HTTPError):
            await scene.admin.post("/recall", content=b"x" * (8 << 20))
        with suppress(OSError, httpx.HTTPError):
            await scene.admin.get("/health", headers={"x-long": "y" * (1 << 20)})


@fault("300 callers who leave")
async def leave(scene: Scene) -> None:
    body = json.dumps({"history": list(range(1, 40))}).encode()
    head = b"POST /recall HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)

    def come_and_go() -> None:
        for _ in range(300):
            with socket.create_connection((scene.target.host, scene.target.port), timeout=10) as connection:
                connection.sendall(head + body)

    await asyncio.to_thread(come_and_go)


def switch(wish: str) -> Act:
    async def act(scene: Scene) -> None:
        await asyncio.to_thread(scene.write, "switch", wish)
        await asyncio.sleep(scene.hold_s)
        await asyncio.to_thread(scene.write, "switch", "")

    return act


fault("an engine thread hangs", *ENGINE_AWAY)(switch("hang"))
fault("an engine thread dies", *ENGINE_AWAY)(switch("die"))


def signal_process(kind: str, number: signal.Signals) -> Act:
    async def act(scene: Scene) -> None:
        chosen = children_running(f"service.processes.{kind}", scene.target.pid)[0]
        chosen.send_signal(number)
        # until it has been seen: a stopped one is given up after HANG_S
        await asyncio.sleep(1.0 if number is signal.SIGKILL else HANG_S + 1)

    return act


for _number in (signal.SIGKILL, signal.SIGSTOP):
    fault(f"an HTTP process: {_number.name}", *GONE, needs_processes=True)(signal_process("http", _number))
    fault(f"the engine process: {_number.name}", *ENGINE_AWAY, needs_processes=True)(signal_process("engine", _number))
