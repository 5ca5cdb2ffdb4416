"""Every parser of the service against spoilt inputs: each is read, or refused by the error that its contract names.

    python -m benchmarks.fuzz_parsers --examples 1000000 --output benchmarks/results/fuzz.jsonl

Inputs are good ones, spoilt as bytes and as JSON (benchmarks/mutations.py). A checksum would stop nearly all of them:
manifests that are spoilt as JSON, half of them, get a fitting one, and each cached value is read twice, as it came and
with a fitting one. Another exception is a failure and is shown with its input; so is an input that takes longer
than LIMIT_S of CPU time. What this process has loaded is kept from the garbage collector as a service keeps its own:
else walking through it, a fifth of a second at a time, counts as the parser's. Memory is read after a tenth of the
examples and at the end, each time without garbage, which a service collects every half minute. One JSON line a parser.
"""

import argparse
import asyncio
import logging
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fuzzed_parsers import Parser, parsers
from benchmarks.steady import add_row, where_and_when
from service.memory import freeze_loaded, let_go
from service.telemetry.logging import configure_logging

LIMIT_S, MAX_FAILURES, EXAMPLES_A_TURN = 1.0, 5, 256


async def fuzz(name: str, parser: Parser, count: int) -> dict[str, Any]:
    """The row of one parser."""
    outcomes: Counter[str] = Counter()
    failures, slowest_s, began = list[str](), 0.0, time.process_time()
    process, memory = psutil.Process(), list[float]()
    for number, data in zip(range(count), parser.inputs, strict=False):
        if number in (count // 10, count - 1):
            let_go()
            memory.append(round(process.memory_info().rss / 2**20, 1))
        started = time.thread_time()
        try:
            parser.read(data)
            outcomes["read"] += 1
        except parser.refusals:
            outcomes["refused"] += 1
        # whatever else is raised is what is looked for
        except Exception as error:  # noqa: BLE001
            outcomes["failed"] += 1
            failures.append(f"{error!r} for {data[:200]!r}"[:500])
        slowest_s = max(slowest_s, time.thread_time() - started)
        if number % EXAMPLES_A_TURN == 0:
            # timers that connections have cancelled leave the event loop in its turns alone
            await asyncio.sleep(0)
    return {
        "parser": name,
        "examples": count,
        "read": outcomes["read"],
        "refused": outcomes["refused"],
        "failed": outcomes["failed"],
        "failures": failures[:MAX_FAILURES],
        "slowest_ms": round(1e3 * slowest_s, 1),
        "us_each": round(1e6 * (time.process_time() - began) / count, 1),
        "memory_mb": memory,
        "passed": not outcomes["failed"] and slowest_s < LIMIT_S,
        **where_and_when(),
    }


async def run(options: argparse.Namespace, folder: Path) -> None:
    rng = random.Random(options.seed)
    for name, parser in parsers(folder, rng).items():
        if options.only and not any(word in name for word in options.only):
            continue
        freeze_loaded()
        add_row(await fuzz(name, parser, options.examples), options.output)


def main() -> None:
    options_of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of.add_argument("--examples", type=int, default=1_000_000, help="of each parser")
    options_of.add_argument("--only", nargs="*", help="words of the names of parsers")
    options_of.add_argument("--seed", type=int, default=0)
    options_of.add_argument("--output", type=Path, help="JSON Lines; a row a parser is added")
    options = options_of.parse_args()
    configure_logging("error")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(options, Path(folder)))


if __name__ == "__main__":
    main()
