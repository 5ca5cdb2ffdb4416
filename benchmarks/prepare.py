"""The cost of `recall prepare`: CPU seconds and peak memory of the whole command on a made log of many rows.

    python -m benchmarks.prepare --rows 2000000 --format csv

Each run appends a row to benchmarks/results/prepare.jsonl, or to --output, and prints it.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.steady import add_row

RESULTS = Path(__file__).with_name("results") / "prepare.jsonl"
WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "csv": pl.DataFrame.write_csv,
    "parquet": pl.DataFrame.write_parquet,
    "jsonl": pl.DataFrame.write_ndjson,
}


def make_log(num_rows: int) -> pl.DataFrame:
    """Watches of a short-video app over 30 days: six columns, users and videos with a long tail."""
    rng = np.random.default_rng(1)
    month_ms = 30 * 86_400_000
    return pl.DataFrame(
        {
            "user_id": rng.zipf(1.3, num_rows) % 100_000 + 1000,
            "video_id": rng.zipf(1.2, num_rows) % 50_000 + 500_000,
            "time_ms": 1_700_000_000_000 + np.sort(rng.integers(0, month_ms, num_rows)),
            "play_time_ms": rng.integers(0, 60_000, num_rows),
            "duration_ms": rng.integers(5000, 60_000, num_rows),
            "is_like": (rng.random(num_rows) < 0.05).astype(int),
        }
    )


def measure(log: Path, folder: Path) -> dict[str, float]:
    """CPU, wall time and peak memory of one command; no other child of this process runs meanwhile."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "recall", "prepare", "--input", str(log), "--output", str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # the largest child so far, in KiB: this command is the only one
    peak = after.ru_maxrss / 2**20
    return {"cpu_s": round(cpu, 2), "wall_s": round(time.perf_counter() - started, 2), "peak_gib": round(peak, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--format", choices=WRITERS, default="csv")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON Lines; a row is added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / f"log.{options.format}"
        WRITERS[options.format](make_log(options.rows), log)
        row = {"rows": options.rows, "format": options.format, "bytes": log.stat().st_size, **measure(log, folder)}
    row |= {"polars": pl.__version__, "date": time.strftime("%Y-%m-%d")}
    add_row(row, options.output)


if __name__ == "__main__":
    main()
