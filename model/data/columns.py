"""From columns of text to an event log: the names that columns go by and the checks of every value, vectorised.

CSV, RecBole and Parquet end here, so the three agree on what a bad row is. Knows nothing of files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from model.data.events import SIGNALS, BadRow, DataError, EventLog, ReadReport

MAX_ID_LENGTH = 256  # characters; numpy stores string ids at the width of the longest one
# Names by preference: the first one that is present is read.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "uid", "userid"),
    "item": ("item", "item_id", "iid", "itemid", "video", "video_id", "vid", "photo_id"),
    "time": ("time", "timestamp", "time_ms", "timestamp_ms", "ts", "timestamps"),
    "play_time_ms": ("play_time_ms", "watch_time_ms", "play_duration", "playing_time"),
    "duration_ms": ("duration_ms", "video_duration_ms", "video_duration"),
    "like": ("like", "is_like", "liked"),
    "follow": ("follow", "is_follow", "followed"),
    "share": ("share", "is_share", "is_forward", "forward", "shared"),
    "comment": ("comment", "is_comment", "commented"),
    "click": ("click", "is_click", "clicked"),
}
REQUIRED = ("user", "item", "time")
TRUTH = {"true": "1", "false": "0"}


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """The columns of a file that are read, under our names."""

    positions: tuple[tuple[str, int], ...]  # (our name, position in the file), our order
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class TextTable:
    """Values as they stand in the file, not yet checked; rows of the wrong shape have been taken out into `bad`."""

    frame: pl.DataFrame  # String columns named as in ALIASES, and `line`
    bad: tuple[BadRow, ...] = ()
    ignored: tuple[str, ...] = ()


def plan_columns(header: Sequence[str], source: object) -> ColumnPlan:
    """Finds our columns among a file's, without regard to case.

    Raises DataError, with the columns found and wanted, when user, item or time is not there.
    """
    names = [name.strip().lower() for name in header]
    places = {ours: next((names.index(a) for a in known if a in names), None) for ours, known in ALIASES.items()}
    positions = tuple((ours, at) for ours, at in places.items() if at is not None)
    missing = [ours for ours in REQUIRED if places[ours] is None]
    if missing:
        wanted = "; ".join(f"{ours}: one of {', '.join(ALIASES[ours])}" for ours in missing)
        raise DataError(f"{source} lacks a column (wanted {wanted}); it has {', '.join(header) or 'none'}")
    used = {at for _, at in positions}
    return ColumnPlan(positions, tuple(name for at, name in enumerate(header) if at not in used))


def to_log(table: TextTable) -> tuple[EventLog, ReadReport]:
    """Checks every value and types the columns; a row with any bad value is reported and left out."""
    numbers = [name for name in ("time", *SIGNALS) if name in table.frame.columns]
    frame = table.frame.with_columns(pl.col("user", "item").str.strip_chars(), *map(_stripped, numbers))
    marked = frame.with_columns(_first_reason(numbers).alias("reason"))
    failed = marked.filter(pl.col("reason").is_not_null())
    good = marked.filter(pl.col("reason").is_null())
    bad = [BadRow(line, reason) for line, reason in failed.select("line", "reason").iter_rows()]
    report = ReadReport.of(frame.height + len(table.bad), [*table.bad, *bad], table.ignored)
    return EventLog(_typed(good, numbers)), report


def infer_ids(text: pl.Series) -> pl.Series:
    """Int64 when every id is a 64-bit integer in plain form, else the text: "07" and "7" stay different ids."""
    # The round trip through text refuses "+7", "007", " 7" and what overflows 64 bits.
    integers = text.cast(pl.Int64, strict=False)
    plain = (integers.cast(pl.String) == text).fill_null(False).all()
    return integers if plain else text


def id_reason(name: str) -> pl.Expr:
    """Why an id cannot be used, as text; null when it can."""
    column = pl.col(name)
    return (
        pl.when(column.fill_null("") == "")
        .then(pl.lit(f"{name} id is empty"))
        .when(column.str.contains("\ufffd", literal=True))
        .then(pl.lit(f"{name} id is not UTF-8"))
        .when(column.str.contains("\0", literal=True))
        .then(pl.lit(f"{name} id holds a NUL character"))
        .when(column.str.len_chars() > MAX_ID_LENGTH)
        .then(pl.lit(f"{name} id is longer than {MAX_ID_LENGTH} characters"))
    )


def _stripped(name: str) -> pl.Expr:
    text = pl.col(name).str.strip_chars()
    return text.str.to_lowercase().replace(TRUTH).alias(name) if name in SIGNALS else text


def _first_reason(numbers: Sequence[str]) -> pl.Expr:
    return pl.coalesce(id_reason("user"), id_reason("item"), *(_number_reason(name) for name in numbers))


def _number_reason(name: str) -> pl.Expr:
    value = pl.col(name).cast(pl.Float64, strict=False)
    shown = pl.col(name).str.slice(0, 40)
    # A signal may be absent from a row; a time may not.
    absent = pl.lit("time is empty" if name == "time" else None, dtype=pl.String)
    return (
        pl.when(pl.col(name).fill_null("") == "")
        .then(absent)
        .when(value.is_null() | value.is_nan())
        .then(pl.format("{} is not a number: {}", pl.lit(name), shown))
        .when(value.is_infinite() | (value < 0))
        .then(pl.format("{} is negative or infinite: {}", pl.lit(name), shown))
    )


def _typed(good: pl.DataFrame, numbers: Sequence[str]) -> pl.DataFrame:
    floats = good.select(pl.col(numbers).cast(pl.Float64, strict=False))
    # Nanosecond stamps exceed the 53 bits of a float, so whole times stay integers.
    whole = good["time"].cast(pl.Int64, strict=False)
    times = floats["time"] if whole.null_count() else whole
    ids = [infer_ids(good[name]).alias(name) for name in ("user", "item")]
    return pl.DataFrame([*ids, times.alias("time"), *(floats[name] for name in numbers if name != "time")])
