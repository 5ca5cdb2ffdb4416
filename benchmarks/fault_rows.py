"""Parts that the rows of the fault suite share: the record of a row, the load, and the best rate of a service."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.steady import LAYOUTS
from recall.bench.target import Target, children_running
from recall.bench.traffic import Load, Measured
from recall.bench.trials import send

NUM_ITEMS, DRAIN_S = 3000, 30.0  # the second: a late answer is late, and lost only after so long
# of rows about what is answered, not how soon: a machine that others use too is no fault of the service
PATIENT = ("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000")
Outcome = tuple[str, bool]  # figures in words, and whether they meet the criterion


@dataclass(frozen=True)
class Case:
    """One row: its criterion, and how it is measured."""

    id: int
    name: str
    criterion: str
    run: Callable[[Path], Outcome]


CASES: list[Case] = []


def case(number: int, name: str, criterion: str) -> Callable[[Callable[[Path], Outcome]], Callable[[Path], Outcome]]:
    """Makes a function the measurement of a row; it gets the folder of the bundle."""

    def add(run: Callable[[Path], Outcome]) -> Callable[[Path], Outcome]:
        CASES.append(Case(number, name, criterion, run))
        return run

    return add


def in_both(run: Callable[..., Outcome]) -> Callable[[Path], Outcome]:
    """The same in one process and with two HTTP processes, whose options it gets behind the bundle: both must pass."""

    @wraps(run)
    def both(bundle: Path) -> Outcome:
        outcomes = {layout: run(bundle, *options) for layout, options in LAYOUTS.items()}
        text = "; ".join(f"{layout}: {measured}" for layout, (measured, _) in outcomes.items())
        return text, all(passed for _, passed in outcomes.values())

    return both


def of_kind(target: Target, kind: str) -> list[psutil.Process]:
    """The processes under supervision of a kind, `http` or `engine`."""
    return children_running(f"service.processes.{kind}", target.pid)


def load_of(target: Target, rate: float, seconds: float = 4, **more: Any) -> Load:
    base = Load(
        port=target.port, path="/recall/recgpt", rate=rate, seconds=seconds, num_items=NUM_ITEMS, drain_s=DRAIN_S
    )
    return replace(base, **more)


def good(measured: Measured, load: Load) -> float:
    """Answers with 200 within the deadline, a second."""
    return measured.goodput * (measured.lost + sum(measured.statuses.values())) / load.seconds


def failed(measured: Measured) -> int:
    return measured.lost + sum(count for status, count in measured.statuses.items() if status[0] == "5")


def send_and_probe(target: Target, load: Load) -> tuple[Measured, float]:
    """The outcome of a load, and the median of the milliseconds that /health took meanwhile."""
    times = list[float]()
    with ThreadPoolExecutor(1) as sender, httpx.Client(base_url=target.url, timeout=30) as client:
        sending = sender.submit(send, load)
        while not sending.done():
            began = time.monotonic()
            client.get("/health")
            times.append(1e3 * (time.monotonic() - began))
            time.sleep(0.1)
        return sending.result(), statistics.median(times)


def peak(target: Target) -> tuple[float, float]:
    """(rate, answers in time a second) of the best of some rates, each sent for a moment."""
    loads = [load_of(target, rate, seconds=2) for rate in (150, 300, 600, 1200)]
    reached = {load.rate: good(send(load), load) for load in loads}
    best = max(reached, key=reached.__getitem__)
    return best, reached[best]
