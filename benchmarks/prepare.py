"""The cost of `recall prepare`: CPU seconds and peak memory of the whole command on a made log of many rows.

    python -m benchmarks.prepare --rows 2000000 --format csv
    python -m benchmarks.prepare --rows 50000000 --format parquet

A log of more than 5,000,000 rows is a folder of files of so many, each with rows of the whole month: times are out of
order. --text makes the ids text.
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
FILE_ROWS = 5_000_000
WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "csv": pl.DataFrame.write_csv,
    "parquet": pl.DataFrame.write_parquet,
    "jsonl": pl.DataFrame.write_ndjson,
}


def make_log(num_rows: int, seed: int = 1, is_text: bool = False) -> pl.DataFrame:
    """Watches of a short-video app over 30 days: six columns, users and videos with a long tail."""
    rng = np.random.default_rng(seed)
    month_ms = 30 * 86_400_000
    log = pl.DataFrame(
        {
            "user_id": rng.zipf(1.3, num_rows) % 100_000 + 1000,
            "video_id": rng.zipf(1.2, num_rows) % 50_000 + 500_000,
            "time_ms": 1_700_000_000_000 + np.sort(rng.integers(0, month_ms, num_rows)),
            "play_time_ms": rng.integers(0, 60_000, num_rows),
            "duration_ms": rng.integers(5000, 60_000, num_rows),
            "is_like": (rng.random(num_rows) < 0.05).astype(int),
        }
    )
    texts = [
        pl.format("user-of-the-app-{}", "user_id").alias("user_id"),
        pl.format("video-{}", "video_id").alias("video_id"),
    ]
    return log.with_columns(texts) if is_text else log


def write_log(options: argparse.Namespace, folder: Path) -> Path:
    """The log as a file, or as a folder of files."""
    log, write = folder / f"log.{options.format}", WRITERS[options.format]
    if options.rows <= FILE_ROWS:
        write(make_log(options.rows, is_text=options.text), log)
        return log
    log.mkdir()
    for number, first in enumerate(range(0, options.rows, FILE_ROWS)):
        rows = make_log(min(FILE_ROWS, options.rows - first), 1 + number, options.text)
        write(rows, log / f"part-{number:03}.{options.format}")
    return log


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--format", choices=WRITERS, default="csv")
    parser.add_argument("--text", action="store_true", help="ids are text, users' of 20 characters and more")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON Lines; a row is added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = write_log(options, folder)
        size = sum(file.stat().st_size for file in (log, *log.rglob("*")) if file.is_file())
        kind = {"ids": "text"} if options.text else {}
        row = {"rows": options.rows, "format": options.format, "bytes": size, **kind, **measure(log, folder)}
    row |= {"polars": pl.__version__, "date": time.strftime("%Y-%m-%d")}
    add_row(row, options.output)


if __name__ == "__main__":
    main()
