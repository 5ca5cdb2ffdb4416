"""CPU per request of two checkouts of this project under the same load, in alternating runs on one machine.

    python -m benchmarks.before_and_after --before '../old:.venv/bin/python -m recall' --after 'python -m recall' \
        --bundle runs/bundle --rounds 3

    python -m benchmarks.before_and_after --after-traces 0.01    # this checkout without traces and with them

Each run starts the command's `serve` in its own checkout (the folder before the command, `FOLDER:COMMAND`), sends an
open-loop load of a fixed rate with this checkout's generator, and reads the CPU time of the service's processes, its
own redis-server apart. A fixed rate, because the cost of a request falls with the size of batches: at the highest rate
of each the two would not do the same work. The last line is JSON: medians, ratios, start to ready, and the machine's
own stall, which is how late an idle timer wakes up.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from recall.bench.bundles import Sizes, make_bundle
from recall.bench.target import Checkout, serving
from recall.bench.traffic import Load
from recall.bench.trials import run_trial, send
from recall.reproduction.facts import machine, versions


def checkout_of(text: str) -> Checkout:
    """`FOLDER:COMMAND`, or a command of this folder."""
    folder, colon, command = text.partition(":")
    return Checkout(shlex.split(command), Path(folder)) if colon else Checkout(shlex.split(text))


def measure(checkout: Checkout, bundle: Path, loads: dict[str, Load], options: Sequence[str] = ()) -> dict[str, Any]:
    """Start to ready, and microseconds of CPU a request under each load."""
    figures: dict[str, Any] = {}
    with serving({"recgpt": bundle}, *options, checkout=checkout) as target:
        figures["start_s"] = round(target.start_s, 2)
        for name, load in loads.items():
            aimed = replace(load, port=target.port)
            # fills the cache and warms the machine
            send(replace(aimed, seconds=2.0))
            seed = load.seed if load.distinct else load.seed + 1  # histories that were asked are in the cache
            trial = run_trial(target, replace(aimed, warmup_s=0.0, seed=seed))
            figures[name] = {
                "cpu_us": round(trial.cpu_us["http"] + trial.cpu_us["compute"], 1),
                "http_us": trial.cpu_us["http"],
                "p99_ms": round(trial.measured.p99_ms, 1),
                "stall_p99_ms": round(trial.stall_p99_ms, 2),
                "statuses": trial.measured.statuses,
                "lost": trial.measured.lost,
            }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=f"{sys.executable} -m recall", help="FOLDER:COMMAND, or one of this folder")
    parser.add_argument("--after", default=f"{sys.executable} -m recall")
    parser.add_argument("--after-traces", type=float, help="share of the requests that the second one traces")
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
    checkouts = [("before", checkout_of(options.before)), ("after", checkout_of(options.after))]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in checkouts}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        further: dict[str, Sequence[str]] = {"before": (), "after": ()}
        if options.after_traces is not None:
            # it needs an extra
            from benchmarks.collector import collecting  # noqa: PLC0415

            url, _ = stack.enter_context(collecting())
            further["after"] = ("--traces-url", url, "--traces-share", str(options.after_traces))
        bundle = options.bundle or make_bundle(Path(folder), Sizes())
        for number in range(options.rounds):
            # the order turns, so that a machine that slows down does not favour one of them
            for name, checkout in checkouts if number % 2 == 0 else checkouts[::-1]:
                runs[name].append(measure(checkout, bundle.resolve(), loads, further[name]))
                print(json.dumps({name: runs[name][-1]}), flush=True)
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
