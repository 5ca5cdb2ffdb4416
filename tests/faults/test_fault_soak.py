"""The soak's own account: warm-ups by process, totals by minute, and faults that could not be done."""

import asyncio
import os

import httpx
import psutil
import pytest

from benchmarks.fault_proxy import FaultProxy
from benchmarks.fault_soak import Minutes, hurt
from benchmarks.soak_faults import FAULTS, Scene
from benchmarks.steady import SteadyLoad
from recall.bench.target import Target
from service.stores.embedded_redis import EmbeddedRedis


def test_a_process_that_was_started_again_has_a_warm_up_of_its_own():
    grown = [(n, 100.0 + 10 * min(n, 5)) for n in range(1, 12)]  # flat from minute 5 on
    minutes = Minutes(
        memory_mb={1: grown[:6], 2: [(n + 30, mb) for n, mb in grown]}, kinds=dict.fromkeys((1, 2), "service.engine")
    )
    told = minutes.slopes(warmup=4)["service.engine"]
    assert (told["minutes"], told["memory_mb"]) == (7, [150.0, 150.0])
    assert told["share_an_hour"] == pytest.approx(0)
    assert minutes.slopes(warmup=0)["service.engine"]["share_an_hour"] > 0.5
    assert minutes.slopes(warmup=40) == {}


def test_totals_are_those_after_the_warm_up_whichever_minutes_were_read():
    minutes = Minutes(totals={"threads": {0: 90, 2: 12, 3: 14, 4: 11}})
    assert minutes.after(1)["threads"] == {"after_warm_up": 12, "end": 11, "most": 14}
    assert minutes.after(9)["threads"] == {"after_warm_up": 11, "end": 11, "most": 11}
    assert Minutes().after(0) == {}


def no_process() -> int:
    return max(psutil.pids()) + 10_000


IMPOSSIBLE = [
    ("an HTTP process: SIGKILL", os.getpid, "IndexError"),
    ("the engine process: SIGSTOP", no_process, "NoSuchProcess"),
    ("Redis flushed", os.getpid, "ConnectionError"),
    ("another bundle", os.getpid, "ConnectError"),
]


def test_a_fault_that_cannot_be_done_is_told_and_ends_no_soak(tmp_path):
    redis, chosen = EmbeddedRedis(tmp_path / "redis"), {fault.name: fault for fault in FAULTS}

    async def do(proxy: FaultProxy, name: str, pid: int) -> tuple[Minutes, str]:
        target, minutes = Target("http://127.0.0.1:9", pid), Minutes()
        load = SteadyLoad(target, iter(()), 1.0, lambda *_: None)
        async with httpx.AsyncClient(base_url=target.url) as admin:
            await hurt(chosen[name], Scene(target, redis, proxy, tmp_path, admin, 1.0, 10), load, minutes)
        return minutes, load.moment

    async def main(proxy: FaultProxy) -> list[tuple[Minutes, str]]:
        return await asyncio.gather(*(do(proxy, name, pid()) for name, pid, _ in IMPOSSIBLE))

    with FaultProxy("nowhere") as proxy:
        done = asyncio.run(main(proxy))
    for (name, _, said), (minutes, moment) in zip(IMPOSSIBLE, done, strict=True):
        [broken] = minutes.broken
        assert broken.startswith(f"{name}: ")
        assert said in broken
        assert (moment, minutes.recovered_s) == ("calm", {})
