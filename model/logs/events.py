"""The record of a parsed log, the account of how it was read, and the error of everything that reads data.

Knows nothing of file formats (readers.py) nor of item rows (model/data/splits.py).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import polars as pl

from model.ids import CONTROL

SIGNALS = ("play_time_ms", "duration_ms", "watch_ratio", "like", "follow", "share", "comment", "click")
REPORTED_ROWS = 20
NAMED_ROWS = 5
SHOWN, REASON_SHOWN = 60, 200  # characters of the input that a sentence repeats
EXACT = pl.Decimal(38, 9)  # times with fractions, to the nanosecond
# ends of lines and turns of direction that Unicode knows, and halves of pairs: none may stand in a sentence
UNSHOWN = re.compile(f"{CONTROL}|[\x85\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
Unit = Literal["s", "ms", "us", "ns"]
Time = int | float | Decimal


class DataError(ValueError):
    """Data that cannot be used as it is; one sentence that says what is wrong and the way out."""


def shown(text: object, limit: int = SHOWN) -> str:
    """A piece of the input for a sentence: short, on one line, and without control characters."""
    clean = UNSHOWN.sub("?", str(text)[: limit + 1])
    return clean if len(clean) <= limit else clean[:limit] + ".."


@dataclass(frozen=True)
class EventLog:
    """Events in file order, one row each, with external ids.

    Columns of `frame`: `user` and `item` (each Int64, or text as String or Categorical), `time` (Int64, Float64 or
    EXACT; one unit a log), and those of SIGNALS that were asked for and the log has (Float64; null = not recorded;
    reactions count when above 0).
    `unit` is that of the times, since 1970; None where they are no epoch or nobody knows.
    """

    frame: pl.DataFrame
    unit: Unit | None = None
    has_times: bool = True  # False: `time` is the position in the input

    def __post_init__(self) -> None:
        missing = {"user", "item", "time"} - set(self.frame.columns)
        if missing:
            raise ValueError(f"an event log needs the columns {sorted(missing)}; it has {self.frame.columns}")
        for name in ("user", "item"):
            if self.frame.schema[name] not in (pl.Int64, pl.String, pl.Categorical):
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
    source: str = ""  # the file, where several were read

    def __str__(self) -> str:
        return f"{self.source} line {self.line}: {shown(self.reason, REASON_SHOWN)}".lstrip()


@dataclass(frozen=True, slots=True)
class ReadReport:
    """The account of every row of the input; nothing is dropped that is not counted here."""

    rows_read: int
    rows_bad: int = 0
    first_bad: tuple[BadRow, ...] = ()  # at most REPORTED_ROWS, in the order of files and lines
    ignored_columns: tuple[str, ...] = ()
    reasons: tuple[tuple[str, int], ...] = ()  # why rows were left out, and how many, the most frequent first
    notes: tuple[str, ...] = ()  # sentences: what was guessed, how ids and times were read

    @classmethod
    def of(cls, rows_read: int, bad: Sequence[BadRow], ignored_columns: Sequence[str] = ()) -> "ReadReport":
        first = tuple(sorted(bad, key=lambda row: row.line)[:REPORTED_ROWS])
        reasons = Counter(kind_of(row.reason) for row in bad)
        return cls(rows_read, len(bad), first, tuple(ignored_columns), tuple(reasons.most_common()))

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


class Account:
    """Counts the rows of an input while it is read."""

    def __init__(self) -> None:
        self._num_rows = 0
        self._first: list[BadRow] = []
        self._reasons: Counter[str] = Counter()

    def add(self, num_rows: int, bad: Iterable[tuple[int, str]], source: str = "") -> None:
        """Counts `num_rows` more rows, of which those in `bad` (line, reason) are left out."""
        self._num_rows += num_rows
        for line, reason in bad:
            self._reasons[kind_of(reason)] += 1
            if len(self._first) < REPORTED_ROWS:
                self._first.append(BadRow(line, reason, source))

    def report(self, ignored_columns: Iterable[str], notes: Iterable[str]) -> ReadReport:
        return ReadReport(
            self._num_rows,
            self._reasons.total(),
            tuple(self._first),
            tuple(ignored_columns),
            tuple(self._reasons.most_common()),
            tuple(notes),
        )


def kind_of(reason: str) -> str:
    """The part of a reason that does not depend on the row: `time is not a number: x` -> `time is not a number`."""
    return reason.split(": ", 1)[0]
