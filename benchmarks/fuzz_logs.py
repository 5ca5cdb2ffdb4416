"""Logs with faults of many kinds, prepared in a loop: each is read or refused in one sentence, never with a traceback.

    POLARS_MAX_THREADS=1 python -m benchmarks.fuzz_logs --examples 100000 --output benchmarks/results/fuzz_logs.jsonl

A log is drawn from its number and the seed alone: `--first N --examples 1` makes the one that failed again. The suite
draws some from hypothesis, which shrinks what fails (tests/model/logs/test_fuzz.py). Seconds are CPU time.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.fuzzed_logs import FuzzedLog, draw_log
from benchmarks.steady import add_row, where_and_when
from model.data.prepare import PrepareOptions, prepare
from model.logs.columns import LogShape
from model.logs.events import DataError
from model.logs.readers import read_log

MAX_FAILURES, MAX_SENTENCE, LIMIT_S = 5, 5000, 5.0


def outcome(folder: Path, log: FuzzedLog) -> str:
    """Prepares a log: "prepared", "read" where only the division is refused, "refused" where the reading is.

    A refusal is a DataError of one line; anything else is an error.
    """
    paths = [folder / name for name in log.files]
    for path, content in zip(paths, log.files.values(), strict=True):
        path.write_bytes(content)
    try:
        shape = LogShape(**log.shape)
        events, report = read_log(paths, log.log_format, shape)
    except DataError as error:
        return _checked(error, "refused")
    if len(events) != report.rows_kept or sum(count for _, count in report.reasons) != report.rows_bad:
        raise AssertionError(f"{len(events)} events of {report.rows_kept} rows kept, {report.rows_bad} bad")
    try:
        options = PrepareOptions(
            format=log.log_format,  # type: ignore[arg-type]  # a name of FORMATS
            input=paths[0],
            more_inputs=tuple(paths[1:]),
            shape=shape,
            max_bad_share=1.0,
            **log.split,
        )
        data, _ = prepare(options)
    except DataError as error:
        return _checked(error, "read")
    if not log.split.get("k_core") and sum(len(part.values) for part in (data.train, data.valid, data.test)) != len(
        events
    ):
        raise AssertionError(f"not all of {len(events)} events are in the data set")
    return "prepared"


def _checked(error: DataError, told: str) -> str:
    if len(str(error).splitlines()) != 1 or len(str(error)) > MAX_SENTENCE:
        raise AssertionError(f"a refusal is one short line, not {str(error)[:200]!r}") from error
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON Lines; a row is added")
    options = parser.parse_args()
    outcomes, failures, slowest_s = Counter[str](), list[str](), 0.0
    began = time.process_time()
    for number in range(options.first, options.first + options.examples):
        # a folder in memory where there is one: the disk is not what is tried
        with tempfile.TemporaryDirectory(dir=_memory()) as folder:
            started, log = time.process_time(), draw_log(random.Random(f"{options.seed} {number}"))
            try:
                outcomes[outcome(Path(folder), log)] += 1
            # whatever else is raised is what is looked for; a panic of polars is no Exception
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcomes["failed"] += 1
                failures.append(f"{number}: {error!r}"[:500])
            slowest_s = max(slowest_s, time.process_time() - started)
    row = {
        "examples": options.examples,
        "first": options.first,
        "seed": options.seed,
        **{name: outcomes[name] for name in ("prepared", "read", "refused", "failed")},
        "failures": failures[:MAX_FAILURES],
        "cpu_s": round(time.process_time() - began),
        "slowest_ms": round(1e3 * slowest_s),
        "passed": not failures and slowest_s < LIMIT_S,
        **where_and_when(),
    }
    add_row(row, options.output)


def _memory() -> Path | None:
    folder = Path("/dev/shm")
    return folder if folder.is_dir() else None


if __name__ == "__main__":
    main()
