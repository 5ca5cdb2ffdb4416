"""Rows of the fault suite about Redis: killed, frozen, spoilt on the way, and a stampede on the cache before it."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from benchmarks.fault_proxy import Fault, FaultProxy
from benchmarks.fault_rows import Outcome, case, failed, in_both, load_of
from recall.bench.stages import scrape
from recall.bench.target import Target, serving
from recall.bench.traffic import Load, Measured
from recall.bench.trials import send
from service.stores.embedded_redis import EmbeddedRedis


@contextmanager
def with_redis(bundle: Path, *options: str) -> Iterator[tuple[Target, EmbeddedRedis]]:
    """A service on a Redis that is not its child; no memory before it, so that Redis is asked."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder)) as redis:
        given = ("--redis-url", redis.url, "--memory-cache-mb", "0", *options)
        with serving({"recgpt": bundle}, *given) as target:
            yield target, redis


def while_loaded(load: Load, act: Callable[[], None]) -> Measured:
    """The outcome of a load during which something happens, a second after its warm-up."""
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(send, load)
        time.sleep(load.warmup_s + 1.5)
        act()
        return sending.result()


REDIS_CRITERION = "0 failed; p99 <= 2x; cached again within 5 s"


def redis_case(
    bundle: Path,
    options: tuple[str, ...],
    hurt: Callable[[EmbeddedRedis], None],
    heal: Callable[[EmbeddedRedis], None],
) -> Outcome:
    with with_redis(bundle, *options) as (target, redis):
        before = send(load_of(target, 60))

        def act() -> None:
            hurt(redis)
            time.sleep(2)
            heal(redis)

        during = while_loaded(load_of(target, 60, seconds=6), act)
        healed = time.monotonic()
        body = {"history": [1, 2, 3], "top_n": 5}
        while httpx.post(f"{target.url}/recall/recgpt", json=body, timeout=30).json()["cache"] != "hit":
            if time.monotonic() - healed > 30:
                break
            time.sleep(0.05)
        back_s = time.monotonic() - healed
    text = (
        f"{failed(during)} failed of {sum(during.statuses.values()) + during.lost}; p99 {during.p99_ms:.0f} ms, "
        f"before {before.p99_ms:.0f} ms; a hit {back_s:.1f} s after the load"
    )
    return text, not failed(during) and during.p99_ms <= 2 * before.p99_ms and back_s <= 5


@case(1, "Redis killed in mid-load", REDIS_CRITERION)
@in_both
def redis_killed(bundle: Path, *options: str) -> Outcome:
    return redis_case(bundle, options, lambda redis: os.kill(redis.pid, signal.SIGKILL), lambda redis: redis.start())


@case(2, "Redis frozen", REDIS_CRITERION)
@in_both
def redis_frozen(bundle: Path, *options: str) -> Outcome:
    def send(redis: EmbeddedRedis, number: signal.Signals) -> None:
        os.kill(redis.pid, number)

    return redis_case(bundle, options, partial(send, number=signal.SIGSTOP), partial(send, number=signal.SIGCONT))


@case(3, "Redis slow, sliced to single bytes, reset, cut in mid-reply, silent", "0 failed; 0 wrong lists")
@in_both
def redis_spoilt(bundle: Path, *options: str) -> Outcome:
    bodies = [{"history": [n, n + 1, n + 2], "top_n": 20} for n in range(1, 101)]
    counted: dict[str, str] = {}
    is_good = True
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder)) as redis,
        FaultProxy(redis.url.removeprefix("unix://")) as proxy,
        serving({"recgpt": bundle}, "--redis-url", proxy.url, "--memory-cache-mb", "0", *options) as target,
        httpx.Client(base_url=target.url, timeout=30) as client,
    ):
        expected = [client.post("/recall/recgpt", json=body).json()["items"] for body in bodies]
        for fault in Fault:
            proxy.set(fault)
            with ThreadPoolExecutor(8) as callers:
                replies = list(callers.map(lambda body: client.post("/recall/recgpt", json=body), bodies * 3))
            lists = [reply.json().get("items") for reply in replies]
            wrong = sum(items != known for items, known in zip(lists, expected * 3, strict=True))
            is_good = is_good and not wrong
            counted[fault.value] = f"{wrong} of {len(lists)}"
    return f"not 200 or another list, by fault: {counted}; replies spoilt: {proxy.num_spoilt}", is_good


@case(6, "stampede: 1,000 requests for one new history", "<= 2 computations; all 200")
@in_both
def stampede(bundle: Path, *options: str) -> Outcome:
    with serving({"recgpt": bundle}, "--request-timeout-ms", "10000", *options) as target:
        before = tokens_of(target)
        measured = send(load_of(target, 1000, seconds=1, warmup_s=0.0, distinct=1, history=10, connections=1000))
        computed = (tokens_of(target) - before) / 10
    total = sum(measured.statuses.values()) + measured.lost
    text = f"{measured.statuses} of {total}; {computed:.0f} computations"
    return text, measured.statuses == {"200": total} and computed <= 2


def tokens_of(target: Target) -> float:
    """Items encoded so far."""
    samples = scrape(target)
    return sum(
        n for (name, labels), n in samples.items() if name == "recall_tokens_total" and ("kind", "item") in labels
    )
