"""Bad canaries under load: how long each answers its share of the users before it is rolled back by itself.

    python -m benchmarks.canary --output benchmarks/results/canary.jsonl

Two bundles of nearly one size; clients ask at a fixed rate, each request as another user. The second bundle is put on
trial with the default bounds, and is bad in one way: its lists have nothing in common with those in force, its batches
fail, or each takes 0.1 s longer (benchmarks/hanging.py). A good one, the same weights with another plan, has to stay.
Seconds count from the answer of POST /admin/reload until /arms has no canary. Failed: an answer that is none, or not
200. One JSON line a case.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.hanging import SWITCH
from index.bundle.build import build_bundle
from model.records import ServingPlan
from recall.bench.bundles import TWO_STEPS, Sizes, make_checkpoint
from recall.bench.target import Checkout, Target, serving

KEY, CLIENTS, LIMIT_S, WATCHED_S = "only-here", 8, 60, 20
LAYOUTS: dict[str, tuple[str, ...]] = {"one process": (), "2 HTTP processes": ("--http-workers", "2")}
CASES = {"other lists": "other", "failing": "same", "slow": "same", "good": "same"}  # the bundle on trial
SWITCHED = {"failing": "fail", "slow": "slow"}
HANGING = Checkout((sys.executable, "-m", "benchmarks.hanging"))


def make_bundles(folder: Path, num_items: int) -> None:
    """`own`, `other` of other weights, and `same`: one item more, and the share of the second step is smaller."""
    own = Sizes(num_items=num_items)
    more = replace(own, num_items=num_items + 1)
    plan = ServingPlan(TWO_STEPS.prompts, (8, 2))
    for name, sizes in {"own": own, "other": replace(more, seed=1), "same": replace(more, plan=plan)}.items():
        checkpoint = make_checkpoint(sizes)
        if name == "same":
            # the rows of the first are drawn before the last one's
            checkpoint.network.load_state_dict(same_weights(own, checkpoint.network.state_dict()))
        checkpoint.save(folder / f"checkpoint-{name}")
        build_bundle(folder / f"checkpoint-{name}", folder / name)


def same_weights(sizes: Sizes, state: dict[str, Any]) -> dict[str, Any]:
    """The weights of the checkpoint of `sizes` in the shapes of a larger one."""
    for name, weights in make_checkpoint(sizes).network.state_dict().items():
        if weights.shape == state[name].shape:
            state[name] = weights
        else:
            state[name][tuple(slice(0, size) for size in weights.shape)] = weights
    return state


@dataclass
class Load:
    """Requests at a fixed rate, each of another user, and what came of them."""

    target: Target
    num_items: int
    rate: float
    num_failed: int = 0
    by_bundle: dict[str, int] = field(default_factory=dict)
    num_fallbacks: int = 0
    is_over: bool = False

    async def work(self, number: int) -> None:
        rng, interval = np.random.default_rng(number), CLIENTS / self.rate
        async with httpx.AsyncClient(base_url=self.target.url, timeout=10) as client:
            due = time.monotonic() + interval * number / CLIENTS
            for user in itertools.count(number, CLIENTS):
                if self.is_over:
                    return
                await asyncio.sleep(due - time.monotonic())
                due = max(due + interval, time.monotonic())
                history = rng.integers(0, self.num_items, 20).tolist()
                reply = await client.post("/recall", json={"user_id": user, "history": history, "top_n": 50})
                if reply.status_code != 200:
                    self.num_failed += 1
                    continue
                answer = reply.json()
                self.num_fallbacks += answer["experiment"]["served"] == "fallback"
                self.by_bundle[answer["bundle"]] = self.by_bundle.get(answer["bundle"], 0) + 1


async def put_on_trial(load: Load, case: str, switch: Path) -> dict[str, Any]:
    """The trial of a case: seconds until it ended, and why."""
    clients = [asyncio.create_task(load.work(number)) for number in range(CLIENTS)]
    async with httpx.AsyncClient(base_url=load.target.url, timeout=60, headers={"X-Admin-Key": KEY}) as admin:
        await asyncio.sleep(2)
        wish = {"arm": "main", "bundle": CASES[case], "canary": {"share": 0.05}}
        begun = (await admin.post("/admin/reload", json=wish)).raise_for_status().json()
        if case in SWITCHED:
            await asyncio.to_thread(switch.write_text, f"{SWITCHED[case]} {load.num_items + 1}")
        started, seconds = time.monotonic(), None
        limit_s = WATCHED_S if case == "good" else LIMIT_S
        while seconds is None and time.monotonic() - started < limit_s:
            await asyncio.sleep(0.05)
            if (await admin.get("/arms")).json()["arms"]["main"]["canary"] is None:
                seconds = round(time.monotonic() - started, 2)
        await asyncio.sleep(1)
        reason = (await admin.get("/ready")).json()["refused"].get("main")
    load.is_over = True
    await asyncio.gather(*clients)
    return {
        "rolled_back_s": seconds,
        "reason": reason,
        "canary_answers": load.by_bundle.get(begun["canary"], 0),
        "answers": sum(load.by_bundle.values()),
    }


def measure(layout: str, case: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    switch = folder / "switch"
    switch.write_text("")
    os.environ[SWITCH] = str(switch)
    given = ("--admin-key", KEY, *LAYOUTS[layout])
    with serving({"main": folder / "own"}, *given, checkout=HANGING) as target:
        load = Load(target, options.items, options.rate)
        trial = asyncio.run(put_on_trial(load, case, switch))
    return {
        "layout": layout,
        "case": case,
        **trial,
        "failed": load.num_failed,
        "fallbacks": load.num_fallbacks,
        "share": 0.05,
        "rate": options.rate,
        "items": options.items,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, load {psutil.getloadavg()[0]:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--layout", choices=[*LAYOUTS], nargs="*", default=[*LAYOUTS])
    parser.add_argument("--case", choices=[*CASES], nargs="*", default=[*CASES])
    parser.add_argument("--output", type=Path, help="JSON Lines; a row a case is added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_bundles(Path(folder), options.items)
        for layout, case in itertools.product(options.layout, options.case):
            line = json.dumps(measure(layout, case, options, Path(folder)))
            if options.output:
                with options.output.open("a", encoding="utf-8") as rows:
                    rows.write(line + "\n")
            print(line)


if __name__ == "__main__":
    main()
