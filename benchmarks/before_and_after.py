"""CPU per request of two checkouts of this project under the same load, in alternating runs on one machine.

    python -m benchmarks.before_and_after --before '../old:.venv/bin/python -m recall' --after 'python -m recall' \
        --bundle runs/bundle --rounds 3

Each run starts the command's `serve` in its own checkout (the folder before the command, `FOLDER:COMMAND`), sends an
open-loop load of a fixed rate with this checkout's generator, and reads the CPU time of the service's processes, its
own redis-server apart. A fixed rate, because the cost of a request falls with the size of batches: at the highest rate
of each the two would not do the same work. The last line is JSON: medians, ratios, start to ready, and the machine's
own stall, which is how late an idle timer wakes up.
"""

import argparse
import contextlib
import json
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from recall.bench.bundles import Sizes, make_bundle
from recall.bench.stall import StallTimer
from recall.bench.target import Target, free_port, wait_ready
from recall.bench.traffic import Load, Measured
from recall.reproduction.facts import machine, versions


@dataclass(frozen=True)
class Checkout:
    """A command that serves, and the folder it runs in."""

    name: str
    folder: Path
    command: list[str]

    @classmethod
    def of(cls, name: str, text: str) -> "Checkout":
        """`FOLDER:COMMAND`, or a command of this folder."""
        folder, colon, command = text.partition(":")
        return cls(name, Path(folder), shlex.split(command)) if colon else cls(name, Path.cwd(), shlex.split(text))

    @contextlib.contextmanager
    def serving(self, bundle: Path) -> Iterator[Target]:
        port = free_port()
        with tempfile.TemporaryDirectory() as state:
            command = [*self.command, "serve", "--arm", f"recgpt={bundle}", "--port", str(port), "--state-dir", state]
            with (Path(state) / "log").open("wb") as log:
                started = time.monotonic()
                process = subprocess.Popen(
                    [*command, "--log-level", "warning"], stdout=log, stderr=log, cwd=self.folder
                )
                try:
                    wait_ready(f"http://127.0.0.1:{port}", process, Path(state) / "log")
                    yield Target(f"http://127.0.0.1:{port}", process.pid, time.monotonic() - started)
                finally:
                    process.send_signal(signal.SIGINT)
                    process.wait(20)


def run(load: Load) -> Measured:
    """One trial in a process of the generator's own."""
    command = [sys.executable, "-m", "recall.bench.generator", json.dumps(asdict(load))]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return Measured(**json.loads(ended.stdout.splitlines()[-1]))


def measure(checkout: Checkout, bundle: Path, loads: dict[str, Load]) -> dict[str, Any]:
    """Start to ready, and microseconds of CPU a request under each load."""
    figures: dict[str, Any] = {}
    with checkout.serving(bundle) as target:
        figures["start_s"] = round(target.start_s, 2)
        for name, load in loads.items():
            aimed = replace(load, port=target.port)
            # the first run fills the cache and warms the machine; the second is measured from its first request
            run(replace(aimed, seconds=2.0))
            seed = load.seed if load.distinct else load.seed + 1  # histories that were asked are in the cache
            before = target.usage()
            with StallTimer() as stall:
                measured = run(replace(aimed, warmup_s=0.0, seed=seed))
            after = target.usage()
            spent = {part: after[part] - before.get(part, 0.0) for part in after}
            num_sent = measured.offered * load.seconds
            figures[name] = {
                "cpu_us": round(1e6 * (spent["http"] + spent["compute"]) / num_sent, 1),
                "http_us": round(1e6 * spent["http"] / num_sent, 1),
                "p99_ms": round(measured.p99_ms, 1),
                "stall_p99_ms": round(stall.p99_ms, 2),
                "statuses": measured.statuses,
                "lost": measured.lost,
            }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="FOLDER:COMMAND, or a command of this folder")
    parser.add_argument("--after", default=f"{sys.executable} -m recall")
    parser.add_argument("--bundle", type=Path, help="served by both; default: one with fresh weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--uncached-rate", type=float, default=600.0)
    parser.add_argument("--cached-rate", type=float, default=1200.0)
    options = parser.parse_args()
    base = Load(port=0, seconds=options.seconds, num_items=12_101, path="/recall/recgpt")
    loads = {
        "uncached": replace(base, rate=options.uncached_rate),
        "cached": replace(base, rate=options.cached_rate, distinct=500),
    }
    checkouts = [Checkout.of("before", options.before), Checkout.of("after", options.after)]
    runs: dict[str, list[dict[str, Any]]] = {checkout.name: [] for checkout in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or make_bundle(Path(folder), Sizes())
        for number in range(options.rounds):
            # the order turns, so that a machine that slows down does not favour one of them
            for checkout in checkouts if number % 2 == 0 else checkouts[::-1]:
                runs[checkout.name].append(measure(checkout, bundle.resolve(), loads))
                print(json.dumps({checkout.name: runs[checkout.name][-1]}), flush=True)
    print(json.dumps(summary(runs, loads)))


def summary(runs: dict[str, list[dict[str, Any]]], loads: dict[str, Load]) -> dict[str, Any]:
    """Medians of each checkout and after / before."""
    medians = {
        name: {
            "start_s": statistics.median(figures["start_s"] for figures in rounds),
            **{load: statistics.median(figures[load]["cpu_us"] for figures in rounds) for load in loads},
        }
        for name, rounds in runs.items()
    }
    ratios = {what: round(medians["after"][what] / medians["before"][what], 3) for what in medians["after"]}
    return {
        "machine": machine("cpu"),
        "versions": versions(),
        "median": medians,
        "after_to_before": ratios,
        "runs": runs,
    }


if __name__ == "__main__":
    main()
