"""New items on two replicas: how long until one is listed or gone on both, and what inserts do to recalls beside them.

    python -m benchmarks.fresh_replicas [--rounds 200] [--inserts 100000] [--index IVF1024,Flat] [--output FILE]
    make fresh-replicas

Two services share one redis-server. An item is put on one of them in turn, with a vector that leads the list of one
history, and both are asked without pause until it leads; then it is deleted, and both are asked until it is gone. Times
count from before the POST or DELETE leaves. Then recalls go to both at a fixed rate, first alone, then while items are
put one after the other over some connections: the p99 of recalls in both, and how many failed. Then again without
inserts, beside all that were put; the memory of a service and of the log; and how long a third service takes to start,
which reads the whole log. One JSON line each.
"""

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from redis import Redis

from benchmarks.soak import requests
from benchmarks.steady import KEY, Body, Connection, SteadyLoad, where_and_when
from index.bundle.build import build_bundle
from model.encoder import pin_compute_threads
from recall.bench.bundles import Sizes, make_checkpoint
from recall.bench.target import Target, serving
from service.catalogue.log import STREAM
from service.stores.embedded_redis import EmbeddedRedis

HEADERS, FIRST_ID, LIMIT_S = {"X-Admin-Key": KEY}, 10_000_000, 30.0
ADMIN, CONNECTIONS = b"x-admin-key: " + KEY.encode() + b"\r\n", 4
HISTORY = [3, 40, 77]


async def asked_until(client: httpx.AsyncClient, targets: list[Target], item: int, is_listed: bool) -> float:
    """The time at which the last of the targets listed the item, or left it out. Raises RuntimeError after a while."""

    async def ask(target: Target) -> float:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            reply = await client.post(f"{target.url}/recall", json={"history": HISTORY, "top_n": 10})
            if reply.status_code == 200 and (item in reply.json()["items"]) is is_listed:
                return time.monotonic()
        raise RuntimeError(f"{target.url} has not followed within {LIMIT_S:.0f} s")

    return max(await asyncio.gather(*map(ask, targets)))


async def follow(targets: list[Target], vector: list[float], rounds: int) -> dict[str, Any]:
    """Seconds until an item is listed by both, and until it is gone from both."""
    usable, gone = [], []
    async with httpx.AsyncClient(timeout=LIMIT_S, headers=HEADERS) as client:
        for number in range(rounds):
            own, item = targets[number % len(targets)], FIRST_ID - 1 - number
            started = time.monotonic()
            body = {"id": item, "vectors": {"main": vector}}
            (await client.post(f"{own.url}/items", json=body)).raise_for_status()
            usable.append(await asked_until(client, targets, item, True) - started)
            started = time.monotonic()
            (await client.delete(f"{own.url}/items/{item}")).raise_for_status()
            gone.append(await asked_until(client, targets, item, False) - started)
    return {
        "what": "followed by both replicas",
        "rounds": rounds,
        **{
            f"{name}_{at}_ms": round(1e3 * float(np.quantile(own, share)), 1)
            for name, own in (("usable", usable), ("gone", gone))
            for at, share in (("p50", 0.5), ("p99", 0.99))
        },
    }


class Inserts:
    """Items put over some connections to each service, so many a request and a second at most."""

    def __init__(self, targets: list[Target], ids: Iterator[int], dim: int, per_request: int, per_s: float) -> None:
        """per_s: of all connections together; 0 = as fast as the services take them."""
        self._targets, self._ids = targets, ids
        self._per_request, self._interval = per_request, CONNECTIONS * per_request / per_s if per_s else 0.0
        # made before: the clients of the recalls live on the same event loop
        self._vectors = np.random.default_rng(0).normal(scale=0.1, size=(1000, dim)).round(4).tolist()
        self.num_refused = 0

    async def run(self) -> None:
        """Returns once all are put."""
        await asyncio.gather(*map(self._work, range(CONNECTIONS)))

    async def _work(self, number: int) -> None:
        target = self._targets[number % len(self._targets)]
        connection = await Connection.open(target.host, target.port)
        due = time.monotonic() + number * self._interval / CONNECTIONS
        while items := [self._item(item) for item in islice(self._ids, self._per_request)]:
            await asyncio.sleep(due - time.monotonic())
            self.num_refused += await self._put(connection, items)
            due += self._interval
        connection.close()

    async def _put(self, connection: Connection, items: list[Body]) -> int:
        """How many were not kept."""
        if self._per_request == 1:
            status, _ = await connection.ask("/items", items[0], ADMIN)
            return int(status != 200)
        status, answer = await connection.ask("/items/batch", {"items": items}, ADMIN)
        return sum("catalogue" not in own for own in answer["responses"]) if status == 200 else len(items)

    def _item(self, item: int) -> Body:
        """Every other one with a vector of its own; of the rest each is expected to be watched so often."""
        if not item % 2:
            return {"id": item, "expected_watches": 1 + item % 9_973 / 10}
        return {"id": item, "vectors": {"main": self._vectors[item // 2 % len(self._vectors)]}}


@dataclass
class Answers:
    """Counts answers that are no lists of the model."""

    num_fallbacks: int = 0

    def take(self, _: Body, answer: dict[str, Any]) -> None:
        self.num_fallbacks += "fallback" in answer["degraded"]


def load_on(target: Target, number: int, sizes: Sizes, rate: float, answers: Answers) -> SteadyLoad:
    todo = (("/recall", body) for body in requests(sizes.num_items, 10**9, number))
    return SteadyLoad(target, todo, rate, answers.take)


async def loaded(targets: list[Target], sizes: Sizes, options: argparse.Namespace) -> dict[str, Any]:
    """The same load without inserts and with them."""
    # a collection of this process's objects, which its clients would wait for, takes a tenth of a second
    gc.collect()
    gc.freeze()
    facts: dict[str, Any] = {"what": "inserts under load", "inserts": options.inserts, "rate": options.rate}
    facts["memory_mb_before"] = round(targets[0].memory_mb)
    ids = iter(range(FIRST_ID, FIRST_ID + options.inserts))
    for name in ("alone", "inserting", "behind"):
        answers = Answers()
        loads = [load_on(target, n, sizes, options.rate / 2, answers) for n, target in enumerate(targets)]
        started = time.monotonic()
        async with AsyncExitStack() as sending:
            for load in loads:
                await sending.enter_async_context(load.sending())
            if name == "inserting":
                inserts = Inserts(targets, ids, sizes.dim, options.per_request, options.inserts_per_s)
                await inserts.run()
                facts["refused"] = inserts.num_refused
                facts["inserts_per_s"] = round(options.inserts / (time.monotonic() - started), 1)
            else:
                await asyncio.sleep(options.seconds)
        latencies = [own for load in loads for own in load.latencies_ms]
        facts |= {
            f"recalls_{name}": len(latencies),
            f"failed_{name}": answers.num_fallbacks + sum(len(load.misses) for load in loads),
            f"p50_ms_{name}": round(float(np.median(latencies)), 2),
            f"p99_ms_{name}": round(float(np.quantile(latencies, 0.99)), 2),
        }
    ratios = {f"p99_ratio_{name}": facts[f"p99_ms_{name}"] / facts["p99_ms_alone"] for name in ("inserting", "behind")}
    rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
    return facts | {"memory_mb_behind": round(targets[0].memory_mb)} | rounded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--inserts", type=int, default=100_000, help="At most 200,000 with those of the rounds.")
    parser.add_argument("--per-request", type=int, default=100, help="Items a request; 1 = by POST /items.")
    parser.add_argument("--inserts-per-s", type=float, default=0, help="At most; 0 = as fast as they are taken.")
    parser.add_argument("--rate", type=float, default=100, help="Recalls a second, of both replicas together.")
    parser.add_argument("--seconds", type=float, default=30, help="Of the load alone.")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--index", default="exact", help="Of the bundle, such as IVF1024,Flat: then items are folded.")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pin_compute_threads()
    sizes = Sizes(num_items=options.items)
    rows = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as services:
        folder = Path(name)
        checkpoint = make_checkpoint(sizes)
        checkpoint.save(folder / "checkpoint")
        build_bundle(folder / "checkpoint", folder / "bundle", options.index)
        (folder / "redis").mkdir()
        redis = services.enter_context(EmbeddedRedis(folder / "redis"))
        given = ("--admin-key", KEY, "--redis-url", redis.url)
        targets = [services.enter_context(serving({"main": folder / "bundle"}, *given)) for _ in range(2)]
        lists = httpx.post(f"{targets[0].url}/recall", json={"history": HISTORY, "top_n": 1}, timeout=LIMIT_S).json()
        best = checkpoint.network.item_vectors()[lists["items"][0]].detach().numpy()
        # many times the score of the best item
        rows.append(asyncio.run(follow(targets, (50 * best).tolist(), options.rounds)))
        rows.append(asyncio.run(loaded(targets, sizes, options)))
        with serving({"main": folder / "bundle"}, *given) as third:
            log = Redis.from_url(redis.url)
            rows[-1] |= {
                "start_s_empty_log": round(targets[0].start_s, 1),
                "start_s_whole_log": round(third.start_s, 1),
                "log_mb": round((log.memory_usage(STREAM, samples=0) or 0) / 2**20, 1),
            }
            log.close()
    facts = {"items": options.items, "index": options.index, **where_and_when()}
    rows = [row | facts for row in rows]
    for row in rows:
        print(json.dumps(row))
    if options.output:
        options.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
