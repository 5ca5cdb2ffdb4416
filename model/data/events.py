"""The record of a parsed log, the account of how it was read, and the error of everything that reads data.

Knows nothing of file formats (columns.py, readers.py) nor of item rows (splits.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

SIGNALS = ("play_time_ms", "duration_ms", "like", "follow", "share", "comment", "click")
REPORTED_ROWS = 20
NAMED_ROWS = 5


class DataError(ValueError):
    """Data that cannot be used as it is; one sentence that says what is wrong and the way out."""


@dataclass(frozen=True)
class EventLog:
    """Events in file order, one row each, with external ids.

    Columns of `frame`: `user` and `item` (each Int64 or String), `time` (Int64 or Float64, any unit, one unit a log),
    and those of SIGNALS that the log has (Float64; null = not recorded; reactions count when above 0).
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        missing = {"user", "item", "time"} - set(self.frame.columns)
        if missing:
            raise ValueError(f"an event log needs the columns {sorted(missing)}; it has {self.frame.columns}")
        for name in ("user", "item"):
            if self.frame.schema[name] not in (pl.Int64, pl.String):
                raise ValueError(f"{name} ids must be Int64 or String, not {self.frame.schema[name]}")

    def __len__(self) -> int:
        return self.frame.height

    @property
    def users(self) -> pl.Series:
        return self.frame["user"]

    @property
    def items(self) -> pl.Series:
        return self.frame["item"]

    @property
    def times(self) -> pl.Series:
        return self.frame["time"]

    @property
    def signals(self) -> tuple[str, ...]:
        return tuple(name for name in SIGNALS if name in self.frame.columns)


@dataclass(frozen=True, slots=True)
class BadRow:
    line: int  # in the file, from 1, the header counted; for Parquet the row, from 1
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ReadReport:
    """The account of every row of the input; nothing is dropped that is not counted here."""

    rows_read: int
    rows_bad: int = 0
    first_bad: tuple[BadRow, ...] = ()  # at most REPORTED_ROWS, by line
    ignored_columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows_read: int, bad: Sequence[BadRow], ignored_columns: Sequence[str] = ()) -> "ReadReport":
        first = sorted(bad, key=lambda row: row.line)[:REPORTED_ROWS]
        return cls(rows_read, len(bad), tuple(first), tuple(ignored_columns))

    @property
    def rows_kept(self) -> int:
        return self.rows_read - self.rows_bad

    @property
    def bad_share(self) -> float:
        return self.rows_bad / self.rows_read if self.rows_read else 0.0

    def check(self, source: object, max_bad_share: float) -> None:
        """Raises DataError when nothing is left, or when more than `max_bad_share` of the rows were bad."""
        named = "; ".join(str(row) for row in self.first_bad[:NAMED_ROWS])
        if not self.rows_kept:
            raise DataError(f"{source} holds no usable row" + (f" ({named})" if named else ""))
        if self.bad_share > max_bad_share:
            raise DataError(
                f"{source}: {self.rows_bad} of {self.rows_read} rows are bad, more than max_bad_share "
                f"{max_bad_share:g} allows ({named}); repair them or raise max_bad_share"
            )
