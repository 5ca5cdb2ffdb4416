"""Schemathesis on the OpenAPI document of a running service for some minutes: server errors, broken promises, memory.

    python -m benchmarks.schemathesis_run --minutes 10 --output benchmarks/results/schemathesis.jsonl

Requests that the document allows and that it forbids, of every route. Server errors are what the service counted: any
5xx but 504, which a request that names a deadline of a microsecond gets by right. Answers are compared to the document
in their form, their headers and their content type: where one is not as the document says, `exit` is not 0 and `said`
ends with what schemathesis found. One JSON line.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

from benchmarks.steady import KEY, add_row, where_and_when
from recall.bench.bundles import Sizes, make_bundle
from recall.bench.target import Target, serving

CHECKS = ("response_schema_conformance", "content_type_conformance", "response_headers_conformance")
SAMPLE_S, SHOWN_CHARS, LATE = 5.0, 1500, "504"


def statuses(target: Target) -> Counter[str]:
    """Answers by status, as the service counted them."""
    text = httpx.get(f"{target.url}/metrics", timeout=30).text
    counted: Counter[str] = Counter()
    for status, count in re.findall(r'^recall_requests_total\{.*status="(\d+)"\} (\S+)$', text, re.MULTILINE):
        counted[status] += int(float(count))
    return counted


def run(target: Target, minutes: float, seed: int) -> tuple[int, str, list[float]]:
    """(exit status, output, resident MiB every SAMPLE_S)."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{target.url}/openapi.json", "--no-color"]
    command += ["--checks", ",".join(CHECKS), "--max-time", str(round(60 * minutes)), "--seed", str(seed)]
    command += ["--max-examples", "1000000", "--continue-on-failure", "--no-shrink", "--warnings", "off"]
    command += ["--header", f"X-Admin-Key: {KEY}", "--phases", "examples,coverage,fuzzing"]
    memory = list[float]()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        while process.poll() is None:
            memory.append(round(target.memory_mb, 1))
            time.sleep(SAMPLE_S)
        output.seek(0)
        return process.returncode, output.read().decode(errors="replace"), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON Lines; a row is added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), Sizes(num_items=3000))
        given = ("--redis-url", "memory", "--memory-cache-mb", "4", "--admin-key", KEY)
        with serving({"recgpt": bundle}, *given) as target:
            status, output, memory = run(target, options.minutes, options.seed)
            counted = statuses(target)
    errors = sum(count for code, count in counted.items() if code[0] == "5" and code != LATE)
    # a fifth of the run is the warm-up
    late = memory[len(memory) // 5 :] or [0.0]
    row = {
        "minutes": options.minutes,
        "requests": counted.total(),
        "statuses": dict(sorted(counted.items())),
        "server_errors": errors,
        "exit": status,  # not 0: an answer was not as the document says
        "said": output[-SHOWN_CHARS:] if status else "",
        "memory_mb": {"after_warm_up": late[0], "median": float(np.median(late)), "end": late[-1]},
        "passed": not errors and not status,
        "seed": options.seed,
        **where_and_when(),
    }
    add_row(row, options.output)


if __name__ == "__main__":
    main()
