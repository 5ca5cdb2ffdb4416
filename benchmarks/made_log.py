"""A made-up event log of many events: the folder that a consumer would have written."""

import time
from pathlib import Path

import numpy as np
import polars as pl

from service.consumer.tables import TABLES

DAY_MS, USERS_OF_A_LOG, ROWS_OF_A_FILE = 86_400_000, 200_000, 20_000
TABLE = {table.name: table for table in TABLES}


def write_table(folder: Path, table: str, rows: pl.DataFrame) -> None:
    """Writes rows in the order of their times, as the consumer does: files named by the ids of a stream."""
    missing = [pl.lit(None, kind).alias(name) for name, kind in TABLE[table].columns.items() if name not in rows]
    numbered = rows.with_columns(*missing, pl.format("{}-{}", "ts_ms", pl.int_range(pl.len())).alias("stream_id"))
    whole = numbered.select(*TABLE[table].schema).cast(TABLE[table].schema)  # type: ignore[arg-type]
    (folder / table / "2026-11-28").mkdir(parents=True)
    for part in whole.iter_slices(ROWS_OF_A_FILE):
        name = f"{part['stream_id'][0]}_{part['stream_id'][-1]}.parquet"
        part.write_parquet(folder / table / "2026-11-28" / name)


def make_log(folder: Path, num_events: int) -> None:
    """A log of a test with two arms: exposures of USERS_OF_A_LOG users, a tenth of whose lists, and their actions."""
    rng = np.random.default_rng(1)
    num_users = min(USERS_OF_A_LOG, num_events // 10)
    start_ms = int(time.time() * 1e3) - 7 * DAY_MS
    units = pl.Series("unit", np.arange(num_users)).cast(str)
    variation = pl.Series("variation", rng.permutation(np.arange(num_users) % 2)).replace_strict(
        {0: "control", 1: "treatment"}
    )
    shared = {name: pl.lit(value) for name, value in {"experiment": "exp", "phase": "0", "bundle": "b"}.items()}
    exposed = pl.DataFrame({"unit": units, "variation": variation}).with_columns(
        **shared,
        id="x" + pl.col("unit"),
        assigned=pl.col("variation"),
        served=pl.col("variation"),
        reason=pl.lit("experiment"),
        request_id="r" + pl.col("unit"),
        ts_ms=pl.Series(np.sort(rng.integers(start_ms, start_ms + DAY_MS, num_users))),
    )
    write_table(folder, "exposures", exposed)
    num_actions = num_events - num_users
    actors = rng.integers(0, num_users, num_actions)
    actions = np.array(["play"] * 16 + ["like", "share", "comment", "hide"])
    acted = pl.DataFrame(
        {
            "user": pl.Series(actors).cast(str),
            "event_id": pl.Series(np.arange(num_actions)).cast(str),
            "item": pl.Series(rng.integers(0, 100_000, num_actions)).cast(str),
            "action": actions[rng.integers(0, len(actions), num_actions)],
            "ts_ms": np.sort(rng.integers(start_ms + DAY_MS, start_ms + 7 * DAY_MS, num_actions)),
            "watch_time_ms": rng.integers(0, 60_000, num_actions),
            "duration_ms": np.full(num_actions, 30_000),
        }
    )
    write_table(folder, "feedback", acted)
