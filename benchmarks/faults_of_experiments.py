"""The row of the fault suite about experiments that change under load: no request fails, and no answer is mixed."""

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.fault_rows import NUM_ITEMS, PATIENT, Outcome, case, in_both
from benchmarks.steady import Body, SteadyLoad
from recall.bench.bundles import Sizes, make_bundle
from recall.bench.target import Target, serving
from service.experiments.assignment import Assigner

ARMS, CHANGES, RATE, WATCH_S, LIMIT_S = ("recgpt", "comirec"), 50, 60.0, 0.1, 60.0


def experiments(number: int) -> bytes:
    """The file after so many changes: other weights, coverage and seed, under a key that names the change."""
    share = 0.1 + 0.8 * (number % 7) / 7
    rule = {
        **{"key": f"change-{number}", "seed": f"seed-{number}", "hashAttribute": "user_id", "hashVersion": 2},
        **{"variations": [*ARMS], "weights": [share, 1 - share], "coverage": (1, 0.5)[number % 2]},
    }
    return json.dumps({"features": {"recall_arm": {"defaultValue": ARMS[number % 2], "rules": [rule]}}}).encode()


@dataclass
class Answers:
    """Each answer with the number of changes that were made when it came."""

    made: int = 0
    kept: list[tuple[int, Body, dict[str, Any]]] = field(default_factory=list)

    def take(self, body: Body, answer: dict[str, Any]) -> None:
        self.kept.append((self.made, body, answer))

    def mixed(self, bundles: dict[str, str]) -> int:
        """Answers that no single file explains: the arm, the reason and the bundle are those of one of them, or not."""
        assigners = [Assigner.from_bytes(experiments(n), ARMS, "a file") for n in range(CHANGES + 1)]
        return sum(
            not self._explained(assigners[: made + 1], body, answer, bundles) for made, body, answer in self.kept
        )

    def _explained(
        self, assigners: list[Assigner], body: Body, answer: dict[str, Any], bundles: dict[str, str]
    ) -> bool:
        told = answer["experiment"]
        if answer["arm"] != told["assigned"] or answer["bundle"] != bundles[answer["arm"]]:
            return False
        number = (told["key"] or "").removeprefix("change-")
        # outside an experiment an answer names none: any file may have said so
        possible = [assigners[int(number)]] if number else assigners
        return any(
            (chosen.arm, chosen.reason) == (told["assigned"], told["reason"])
            for chosen in (assigner.assign(str(body["user_id"])) for assigner in possible)
        )


def requests() -> Iterator[tuple[str, Body]]:
    for number in itertools.count():
        yield "/recall", {"user_id": f"u{number % 500}", "history": [1 + number % NUM_ITEMS], "top_n": 5}


def change(path: Path, number: int) -> None:
    coming = path.with_suffix(".new")
    coming.write_bytes(experiments(number))
    coming.replace(path)


async def change_all(load: SteadyLoad, answers: Answers, path: Path) -> None:
    """Makes each change once the one before it was seen in an answer."""
    async with load.sending():
        for number in range(1, CHANGES + 1):
            answers.made = number
            change(path, number)
            deadline = time.monotonic() + LIMIT_S
            while not any(is_of(number, answer) for _, _, answer in answers.kept[-200:]):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"change {number} is not in force after {LIMIT_S:.0f} s")
                await asyncio.sleep(0.02)


def is_of(number: int, answer: dict[str, Any]) -> bool:
    return bool(answer["experiment"]["key"] == f"change-{number}")


def bundles_of(target: Target) -> dict[str, str]:
    return {name: arm["bundle"] for name, arm in httpx.get(f"{target.url}/arms", timeout=30).json()["arms"].items()}


@case(35, "50 experiment changes under load", "0 failed; 0 answers mixed of two files")
@in_both
def experiments_changed(bundle: Path, *options: str) -> Outcome:
    answers = Answers()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiments.json"
        path.write_bytes(experiments(0))
        # two bundles that differ, so that an answer of the wrong arm shows
        (beside := Path(folder) / "other").mkdir()
        other = make_bundle(beside, Sizes(num_items=NUM_ITEMS, seed=1))
        given = ("--experiments", str(path), "--watch-experiments-s", str(WATCH_S), *PATIENT, *options)
        with serving(dict(zip(ARMS, (bundle, other), strict=True)), *given) as target:
            load = SteadyLoad(target, requests(), RATE, answers.take)
            asyncio.run(change_all(load, answers, path))
            mixed = answers.mixed(bundles_of(target))
    text = f"{CHANGES} changes, {load.num_asked} requests, {len(load.misses)} failed, {mixed} mixed"
    return text, not load.misses and not mixed and len(answers.kept) > CHANGES
