"""Fault and abuse tests against real service processes, each with its criterion, as one table: `make faults`.

    python -m benchmarks.faults --output benchmarks/results/faults.json --only 1 2 7

Rows: id, name, criterion, measured (figures in words), passed (true, false; null = not measured yet), seconds. Most are
measured in one process and with two HTTP processes; what tests hold is run by pytest here, and what studies of their
own measure is read from the newest rows of theirs (benchmarks/faults_elsewhere.py). Rows that are not run are kept as
they stand in the file. "Failed" is no reply, a 5xx or a wrong answer. Rates are those of a shared machine: what is
compared is measured in the same run, one after the other.
"""

import argparse
import json
import tempfile
import time
from importlib import import_module
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import httpx
import psutil

from benchmarks.fault_rows import CASES, NUM_ITEMS, Case
from benchmarks.steady import where_and_when
from recall.bench.bundles import Sizes, make_bundle

# each adds its rows to CASES when it is imported
ROWS_OF = (
    *("faults_of_redis", "faults_of_load", "faults_of_processes", "faults_of_bodies", "faults_at_the_edge"),
    *("faults_of_the_machine", "faults_of_experiments", "faults_elsewhere"),
)
BROKEN = (RuntimeError, OSError, httpx.HTTPError, psutil.Error, TimeoutExpired, ValueError, KeyError, AssertionError)


def facts_of(each: Case) -> dict[str, Any]:
    return {"id": each.id, "name": each.name, "criterion": each.criterion}


def unmeasured(each: Case) -> dict[str, Any]:
    return facts_of(each) | {"measured": "not measured yet", "passed": None}


def row(each: Case, bundle: Path) -> dict[str, Any]:
    began = time.monotonic()
    try:
        measured, passed = each.run(bundle)
    except BROKEN as error:
        # a row that breaks is one that failed; the others are measured all the same
        measured, passed = f"the case broke: {error!r}"[:300], False
    seconds = round(time.monotonic() - began, 1)
    return facts_of(each) | {"measured": measured, "passed": passed, "seconds": seconds, **where_and_when()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="*", help="rows to run; default: all")
    parser.add_argument("--output", type=Path, help="JSON; rows that are not run stay as they are")
    options = parser.parse_args()
    before = json.loads(options.output.read_text()) if options.output and options.output.exists() else []
    for name in ROWS_OF:
        import_module(f"benchmarks.{name}")
    rows = {each["id"]: each for each in before}
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), Sizes(num_items=NUM_ITEMS))
        for each in sorted(CASES, key=lambda known: known.id):
            if options.only is None or each.id in options.only or each.id not in rows:
                is_left = options.only is not None and each.id not in options.only
                rows[each.id] = unmeasured(each) if is_left else row(each, bundle)
                print(json.dumps(rows[each.id]), flush=True)
                if options.output:
                    listed = [rows[number] for number in sorted(rows)]
                    options.output.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    shown = {True: "passed", False: "FAILED", None: "-"}
    for number in sorted(rows):
        print(f"{number:3} {shown[rows[number]['passed']]:7} {rows[number]['name']}: {rows[number]['measured']}")


if __name__ == "__main__":
    main()
