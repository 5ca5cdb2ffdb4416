"""Bad canaries under load: how long each answers its share of the users before it is rolled back by itself.

    python -m benchmarks.canary --output benchmarks/results/canary.jsonl

Two bundles of nearly one size; clients ask at a fixed rate, each request as another user. The second bundle is put on
trial with the default bounds, and is bad in one way: its lists have nothing in common with those in force, its batches
fail, or each takes 0.1 s longer (benchmarks/hanging.py). A good one, the same weights with another plan, has to stay.
Seconds count from the answer of POST /admin/reload until /arms has no canary. Failed: an answer that is none, or not
200; `misses` says what came instead. One JSON line a case.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.hanging import SWITCH
from benchmarks.steady import KEY, LAYOUTS, MAX_SHOWN, Body, SteadyLoad, add_row, where_and_when
from index.bundle.build import build_bundle
from model.records import ServingPlan
from recall.bench.bundles import TWO_STEPS, Sizes, make_checkpoint
from recall.bench.target import Checkout, serving

CLIENTS, LIMIT_S, WATCHED_S = 8, 60, 20
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
class Answers:
    """The answers so far, by the bundle that gave them."""

    by_bundle: Counter[str] = field(default_factory=Counter)
    num_fallbacks: int = 0

    def take(self, _: Body, answer: dict[str, Any]) -> None:
        self.num_fallbacks += answer["experiment"]["served"] == "fallback"
        self.by_bundle[answer["bundle"]] += 1


def requests(num_items: int) -> Iterator[tuple[str, Body]]:
    """Each of another user."""
    rng = np.random.default_rng(0)
    for user in itertools.count():
        yield "/recall", {"user_id": user, "history": rng.integers(0, num_items, 20).tolist(), "top_n": 50}


async def put_on_trial(load: SteadyLoad, case: str, break_it: Callable[[], object]) -> dict[str, Any]:
    """The trial of a case: seconds until it ended, and why; `break_it` makes the bundle on trial a bad one."""
    headers = {"X-Admin-Key": KEY}
    async with load.sending(), httpx.AsyncClient(base_url=load.target.url, timeout=60, headers=headers) as admin:
        await asyncio.sleep(2)
        load.moment = "while the bundle is proven"
        wish = {"arm": "main", "bundle": CASES[case], "canary": {"share": 0.05}}
        begun = (await admin.post("/admin/reload", json=wish)).raise_for_status().json()
        await asyncio.to_thread(break_it)
        load.moment = "on trial"
        started, seconds = time.monotonic(), None
        limit_s = WATCHED_S if case == "good" else LIMIT_S
        while seconds is None and time.monotonic() - started < limit_s:
            await asyncio.sleep(0.05)
            if (await admin.get("/arms")).json()["arms"]["main"]["canary"] is None:
                seconds = round(time.monotonic() - started, 2)
                load.moment = "rolled back"
        await asyncio.sleep(1)
        reason = (await admin.get("/ready")).json()["refused"].get("main")
    return {"rolled_back_s": seconds, "reason": reason, "canary": begun["canary"]}


def measure(layout: str, case: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    switch = folder / "switch"
    switch.write_text("")
    os.environ[SWITCH] = str(switch)
    given = ("--admin-key", KEY, "--request-timeout-ms", str(options.timeout_ms), *LAYOUTS[layout])
    answers = Answers()

    def break_it() -> None:
        if case in SWITCHED:
            switch.write_text(f"{SWITCHED[case]} {options.items + 1}")

    with serving({"main": folder / "own"}, *given, checkout=HANGING) as target:
        load = SteadyLoad(target, requests(options.items), options.rate, answers.take, CLIENTS)
        trial = asyncio.run(put_on_trial(load, case, break_it))
    return {
        "layout": layout,
        "case": case,
        "rolled_back_s": trial["rolled_back_s"],
        "reason": trial["reason"],
        "canary_answers": answers.by_bundle[trial["canary"]],
        "answers": answers.by_bundle.total(),
        "failed": len(load.misses),
        "misses": [miss.to_json() for miss in load.misses[:MAX_SHOWN]],
        "reopened": load.num_reopened,
        "fallbacks": answers.num_fallbacks,
        "share": 0.05,
        "rate": options.rate,
        "items": options.items,
        "timeout_ms": options.timeout_ms,
        **where_and_when(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--timeout-ms", type=float, default=1000, help="the service's own deadline")
    parser.add_argument("--layout", choices=[*LAYOUTS], nargs="*", default=[*LAYOUTS])
    parser.add_argument("--case", choices=[*CASES], nargs="*", default=[*CASES])
    parser.add_argument("--output", type=Path, help="JSON Lines; a row a case is added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_bundles(Path(folder), options.items)
        for layout, case in itertools.product(options.layout, options.case):
            add_row(measure(layout, case, options, Path(folder)), options.output)


if __name__ == "__main__":
    main()
