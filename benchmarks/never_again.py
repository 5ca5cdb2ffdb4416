"""Answers with `not_shown` under load: no item twice for a user, none that is hidden or watched: `make never-again`.

    python -m benchmarks.never_again [--answers 100000] [--workers 2] [--output benchmarks/results/never_again.jsonl]

Users ask again and again, several requests of one user at once, alone and in batches, under two arms;
between, they hide and watch items. Every answer is compared with all that its user was shown, had hidden and had
watched before it was asked for. A leak is an item that should not be there; an answer whose `degraded` says that a
store did not answer in time counts apart. Users leave after MAX_SHOWN items, which is what the memory keeps.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from recall.bench.bundles import Sizes, make_bundle
from recall.bench.target import serving
from recall.reproduction.facts import machine, versions
from service.stores.shown import MAX_SHOWN

TOP_N, AT_ONCE, HISTORY = 20, 3, 8
ARMS = ("recgpt", "comirec")
MAX_LOST = 1000  # requests without an answer, or members of batches without a list: then the service is not there
# a store that did not answer in time: the promise is not made, and the answer says so
LABELS = ("shown_unavailable", "shown_not_kept", "history_unavailable", "hidden_unavailable")


@dataclass
class User:
    """A user and all that may not be listed for it any more."""

    name: str
    items: Sequence[int]  # of the catalogue
    rng: random.Random
    barred: set[int] = field(default_factory=set)
    num_shown: int = 0
    is_done: bool = False  # nothing is left for it

    def body(self) -> dict[str, Any]:
        # a session; what was watched before is known to the service alone
        return {"user_id": self.name, "history": self.session(), "top_n": TOP_N, "not_shown": True}

    def session(self) -> list[int]:
        return self.rng.choices(self.items, k=HISTORY)


@dataclass
class Tally:
    """The count of everything."""

    answers: int = 0
    items: int = 0
    leaks: int = 0
    short: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)

    def add(self, user: User, barred: set[int], answer: dict[str, Any]) -> None:
        """barred: what was barred before the request left, and what lists made beside this one hold."""
        self.answers += 1
        self.items += len(answer["items"])
        is_short = len(answer["items"]) < TOP_N
        self.short += is_short
        user.is_done |= is_short
        labels = [label for label in answer["degraded"] if label in LABELS]
        self.labels.update(labels)
        if not labels:
            self.leaks += len(barred.intersection(answer["items"]))
        user.num_shown += len(answer["items"])


async def ask(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and answer; status 0 where none came."""
    try:
        reply = await client.post(path, json=body)
    except httpx.TransportError:
        return 0, {}
    return reply.status_code, reply.json()


async def visit(client: httpx.AsyncClient, user: User, tally: Tally) -> None:
    """One user, until the memory is full."""
    while not user.is_done and tally.refused[0] < MAX_LOST and user.num_shown + AT_ONCE * TOP_N <= MAX_SHOWN:
        before = set(user.barred)
        bodies = [user.body() for _ in range(AT_ONCE)]
        arm = user.rng.choice(ARMS)
        if user.rng.random() < 0.3:
            _, answer = await ask(client, "/recall/batch", {"requests": bodies, "arm": arm})
            members = answer.get("responses", [{}] * len(bodies))
            replies = [(200 if "items" in own else 0, own) for own in members]
        else:
            replies = await asyncio.gather(*(ask(client, f"/recall/{arm}", body) for body in bodies))
        seen: set[int] = set()
        for (status, answer), body in zip(replies, bodies, strict=True):
            if status != 200:
                tally.refused[status] += 1
                continue
            tally.add(user, before | seen | {*body["history"]}, answer)
            seen |= {*answer["items"]}
        user.barred |= seen
        await feedback(client, user)


async def feedback(client: httpx.AsyncClient, user: User) -> None:
    """Hides an item, and watches another: both are acknowledged before the next request."""
    events: list[dict[str, Any]] = [
        {"user_id": user.name, "item_id": user.rng.choice(user.items), "action": action} for action in ("hide", "play")
    ]
    _, answer = await ask(client, "/feedback/batch", {"events": events})
    told = zip(events, answer.get("responses", ()), strict=False)
    user.barred |= {event["item_id"] for event, own in told if "event_id" in own}


async def run(url: str, num_answers: int, num_items: int, users_at_once: int) -> Tally:
    tally, numbers = Tally(), iter(range(10**9))

    async def visits() -> None:
        # a client each: one for all looks through the connections of all for every request
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            while tally.answers < num_answers and tally.refused[0] < MAX_LOST:
                number = next(numbers)
                await visit(client, User(f"user-{number}", range(num_items), random.Random(number)), tally)

    await asyncio.gather(*(visits() for _ in range(users_at_once)))
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--users", type=int, default=16, help="Users at once, each with several requests.")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="HTTP processes; 0 = one process.")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), Sizes(num_items=options.items))
        for workers in options.workers:
            more = ("--request-timeout-ms", "30000", "--events-timeout-ms", "5000", "--http-workers", str(workers))
            with serving(dict.fromkeys(ARMS, bundle), *more) as target:
                started = time.perf_counter()
                url = f"http://127.0.0.1:{target.port}"
                tally = asyncio.run(run(url, options.answers // len(options.workers), options.items, options.users))
                seconds = time.perf_counter() - started
            row = {
                "http_workers": workers,
                "answers": tally.answers,
                "items": tally.items,
                "leaks": tally.leaks,
                "short": tally.short,
                "labelled": dict(tally.labels),
                "refused": dict(tally.refused),
                "seconds": round(seconds, 1),
            }
            rows.append(row | {"machine": machine("cpu"), "versions": versions()})
            print(json.dumps(rows[-1]), flush=True)
    if options.output:
        options.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sys.exit(any(row["leaks"] for row in rows))


if __name__ == "__main__":
    main()
