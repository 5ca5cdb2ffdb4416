"""The event log that a running service leaves behind (docs/experiments.md), as a log to train on.

    events/feedback/DAY/*.parquet   user, event_id, item, action, ts_ms, watch_time_ms, duration_ms, request_id
    events/forced/DAY/*.parquet     unit, request_id of answers that a tester forced

An event that was delivered twice counts once, what testers did counts for nothing, and a hidden item is no positive.
Consecutive actions of a user on one item are one row, as they are one entry of the history that the service keeps.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from model.logs.events import DataError, EventLog, ReadReport
from model.logs.values import Collector, RawPart
from model.positive import PLAY

FEEDBACK, FORCED = "feedback", "forced"
FEEDBACK_KEY, FORCED_KEY = ("user", "event_id"), ("request_id",)
HIDE = "hide"
REACTIONS = ("like", "follow", "share", "comment")


def read_feedback(folder: Path) -> tuple[EventLog, ReadReport]:
    """The feedback in a folder. Raises DataError where there is none."""
    actions = read_table(folder, FEEDBACK, FEEDBACK_KEY)
    if actions is None:
        raise DataError(
            f"{folder} holds no {FEEDBACK}/*/*.parquet; give the folder that `recall events consume` writes"
        )
    collector = Collector()
    counted = without_testers(actions, folder)
    seen = counted.filter(pl.col("action") != HIDE)
    # as in the histories that a service keeps
    taken = seen.filter(((pl.col("action") == PLAY) & (pl.col("watch_time_ms") == 0)).fill_null(False).not_())
    left_out = {
        "of testers": actions.height - counted.height,
        "hides": counted.height - seen.height,
        "plays of no time": seen.height - taken.height,
    }
    collector.note((), [f"left out: {count} {what}" for what, count in left_out.items() if count])
    rows = join_actions(taken)
    collector.note((), [f"{taken.height} actions are {rows.height} events: consecutive ones on an item are one"])
    collector.add(RawPart(rows.with_columns(pl.int_range(1, pl.len() + 1).alias("line"))))
    return collector.finish()


def read_table(folder: Path, name: str, key: Sequence[str]) -> pl.DataFrame | None:
    """A table of the event log in the order of its stream, each key once; None where there is no file of it."""
    files = sorted((folder / name).glob("*/*.parquet"))
    if not files:
        return None
    try:
        parts = [pl.read_parquet(path, glob=False, hive_partitioning=False) for path in files]
        # files of an older service lack the columns that came later
        table = pl.concat(parts, how="diagonal")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{folder / name} cannot be read as an event log: {error}") from error
    numbers = pl.col("stream_id").str.split("-").list
    order = [numbers.get(0).cast(pl.Int64), numbers.get(1).cast(pl.Int64)]
    return table.sort(order).unique(list(key), keep="first", maintain_order=True)


def without_testers(table: pl.DataFrame, folder: Path, user: str = "user") -> pl.DataFrame:
    """The rows of those who never forced a variation, on no request that was forced. user: the column with its id."""
    forced = read_table(folder, FORCED, FORCED_KEY)
    if forced is None:
        return table
    units = forced["unit"].filter(forced["unit"] != "").implode()
    is_forced = pl.col(user).is_in(units) | pl.col("request_id").is_in(forced["request_id"].implode())
    return table.filter(~is_forced.fill_null(False))


def join_actions(actions: pl.DataFrame) -> pl.DataFrame:
    """One row for consecutive actions of a user on an item: its time is the first, its signals are those of all."""
    ordered = actions.sort("user", "ts_ms", maintain_order=True)
    run = ordered.select(pl.struct("user", "item").rle_id()).to_series()
    signals = [(pl.col("action") == name).any().cast(pl.Float64).alias(name) for name in REACTIONS]
    watched = [
        pl.col("watch_time_ms").max().cast(pl.Float64).alias("play_time_ms"),
        pl.col("duration_ms").max().cast(pl.Float64),
    ]
    grouped = ordered.with_columns(run.alias("run")).group_by("run", maintain_order=True)
    rows = grouped.agg(pl.col("user", "item").first(), pl.col("ts_ms").first().alias("time"), *watched, *signals)
    return rows.drop("run")
