"""Sufficient statistics of an experiment: one row of sums a variation and metric, which adds up over disjoint users.

The unit is the user. y is the metric of one user, d its denominator (1 for a mean), x a covariate from before the
experiment. Knows no test and no interval; docs/experiments.md has the table and the query that writes it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.errors import BadStatistics

ROUNDING = 1e-9  # of sums in double precision, relative
WINSOR_QUANTILE = 0.999
Number = float | NDArray[np.float64]


class Kind(StrEnum):
    MEAN = "mean"
    PROPORTION = "proportion"  # y is 0 or 1
    RATIO = "ratio"  # sum of y over sum of d, users are the unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over users. Numbers, or arrays of one shape: then every function of them works on all at once."""

    n: Number
    sum_y: Number
    sum_yy: Number
    sum_d: Number
    sum_dd: Number
    sum_yd: Number
    sum_x: Number = 0.0
    sum_xx: Number = 0.0
    sum_yx: Number = 0.0
    sum_dx: Number = 0.0

    def __add__(self, other: Self) -> Self:
        sums = {name: getattr(self, name) + getattr(other, name) for name in MOMENTS}
        return replace(self, **sums)

    @property
    def has_covariate(self) -> bool:
        return bool(np.any(self.sum_xx))

    @classmethod
    def of_users(
        cls,
        y: NDArray[np.float64],  # (.., n)
        d: NDArray[np.float64] | None = None,
        x: NDArray[np.float64] | None = None,
    ) -> Self:
        d = np.ones_like(y) if d is None else d
        x = np.zeros_like(y) if x is None else x
        pairs = {"yy": (y, y), "dd": (d, d), "yd": (y, d), "xx": (x, x), "yx": (y, x), "dx": (d, x)}
        sums: dict[str, Any] = {f"sum_{name}": np.einsum("...n,...n", *pair) for name, pair in pairs.items()}
        sums |= {f"sum_{name}": values.sum(-1) for name, values in (("y", y), ("d", d), ("x", x))}
        return cls(n=np.full(y.shape[:-1], float(y.shape[-1])), **sums)


MOMENTS = tuple(field.name for field in fields(Moments))
COLUMNS: dict[str, Any] = {"variation": pl.String, "metric": pl.String, "kind": pl.String, "cap": pl.Float64}
COLUMNS |= dict.fromkeys(MOMENTS, pl.Float64)
REQUIRED = ("variation", "metric", "n", "sum_y", "sum_yy")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricStatistics:
    """A row of the table. With a cap: y was winsorised there, and the row stands beside the raw one."""

    variation: str
    metric: str
    moments: Moments
    kind: Kind = Kind.MEAN
    cap: float | None = None

    @property
    def key(self) -> tuple[str, str, bool]:
        return self.variation, self.metric, self.cap is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricColumns:
    """The columns of per-user rows that make a metric."""

    metric: str
    value: str
    denominator: str | None = None
    covariate: str | None = None
    kind: Kind = Kind.MEAN

    @property
    def names(self) -> list[str]:
        return [name for name in (self.value, self.denominator, self.covariate) if name]


def check(row: MetricStatistics) -> None:
    """Raises BadStatistics where no users can have such sums."""
    m, place = row.moments, f"{row.metric} of {row.variation}"
    values = {name: float(getattr(m, name)) for name in MOMENTS}
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise BadStatistics(f"{bad[0]} of {place} is not a finite number")
    if values["n"] < 2 or values["n"] != int(values["n"]):
        raise BadStatistics(f"n of {place} is {values['n']:g}: at least 2 users are needed, counted in whole numbers")
    for letter in "ydx":
        squares, needed = values[f"sum_{letter * 2}"], values[f"sum_{letter}"] ** 2 / values["n"]
        if squares < needed * (1 - ROUNDING):
            raise BadStatistics(f"sum_{letter * 2} of {place} is {squares:g}, less than any users give: {needed:g}")
    for first, second in ("yd", "yx", "dx"):
        product = values[f"sum_{first}{second}"] ** 2
        if product > values[f"sum_{first * 2}"] * values[f"sum_{second * 2}"] * (1 + ROUNDING):
            raise BadStatistics(f"sum_{first}{second} of {place} is larger than its squares allow")
    if values["sum_d"] <= 0:
        raise BadStatistics(f"sum_d of {place} is {values['sum_d']:g}: a ratio needs a positive denominator")
    if row.kind is Kind.PROPORTION and (not 0 <= values["sum_y"] <= values["n"] or values["sum_yy"] != values["sum_y"]):
        raise BadStatistics(f"{place} is a proportion, and its values are not all 0 or 1")


def combine(*tables: Iterable[MetricStatistics]) -> tuple[MetricStatistics, ...]:
    """Adds tables of disjoint users. Raises BadStatistics where kinds or caps differ."""
    rows: dict[tuple[str, str, bool], MetricStatistics] = {}
    for row in (row for table in tables for row in table):
        known = rows.get(row.key)
        if known is not None and (known.kind, known.cap) != (row.kind, row.cap):
            raise BadStatistics(f"{row.metric} of {row.variation} has two kinds or caps: such sums do not add up")
        rows[row.key] = row if known is None else replace(known, moments=known.moments + row.moments)
    return tuple(rows.values())


def to_frame(rows: Iterable[MetricStatistics]) -> pl.DataFrame:
    """The documented table; `from_frame` reads it."""
    return pl.DataFrame(
        [
            {"variation": row.variation, "metric": row.metric, "kind": row.kind.value, "cap": row.cap}
            | {name: float(getattr(row.moments, name)) for name in MOMENTS}
            for row in rows
        ],
        schema=COLUMNS,
    )


def is_table(frame: pl.DataFrame) -> bool:
    return {"metric", "n", "sum_y"} <= set(frame.columns)


def from_frame(frame: pl.DataFrame) -> tuple[MetricStatistics, ...]:
    """Rows of the documented table; what a mean leaves out is filled in. Raises BadStatistics."""
    unknown, missing = set(frame.columns) - set(COLUMNS), set(REQUIRED) - set(frame.columns)
    if unknown or missing:
        problem = f"has the unknown column {min(unknown)!r}" if unknown else f"lacks the column {min(missing)!r}"
        raise BadStatistics(f"the table of statistics {problem}")
    try:
        frame = frame.cast({name: kind for name, kind in COLUMNS.items() if name in frame.columns})
    except pl.exceptions.InvalidOperationError as error:
        raise BadStatistics(f"the table of statistics holds what is no number: {error}") from error
    return tuple(_read_row(row) for row in frame.to_dicts())


def _read_row(row: dict[str, Any]) -> MetricStatistics:
    given = {name: value for name, value in row.items() if value is not None}
    if absent := sorted(set(REQUIRED) - set(given)):
        raise BadStatistics(f"a row of the table of statistics has no {absent[0]}")
    kind = given.get("kind", Kind.MEAN.value)
    if kind not in set(Kind):
        raise BadStatistics(f"kind {kind!r} of {row['metric']} is none of {', '.join(Kind)}")
    sums = {name: float(given[name]) for name in MOMENTS if name in given}
    if kind == Kind.RATIO and not {"sum_d", "sum_dd", "sum_yd"} <= set(sums):
        raise BadStatistics(f"{row['metric']} is a ratio and needs sum_d, sum_dd and sum_yd")
    if kind != Kind.RATIO:  # d is 1
        n, y, x = sums["n"], sums["sum_y"], sums.get("sum_x", 0.0)
        sums |= {"sum_d": n, "sum_dd": n, "sum_yd": y, "sum_dx": x}
    key: dict[str, Any] = {name: given.get(name) for name in ("variation", "metric", "cap")}
    return MetricStatistics(kind=Kind(kind), moments=Moments(**sums), **key)


def from_users(frame: pl.DataFrame, metrics: Sequence[MetricColumns]) -> tuple[MetricStatistics, ...]:
    """Sums one row a user, with the column `variation`; a mean also winsorised. Raises BadStatistics."""
    check_users(frame, metrics)
    rows = []
    for columns in metrics:
        rows += _sum_up(frame, columns, cap=None)
        if columns.kind is Kind.MEAN and (cap := winsor_cap(frame, columns.value)) is not None:
            rows += _sum_up(frame, columns, cap)
    return tuple(rows)


def check_users(frame: pl.DataFrame, metrics: Sequence[MetricColumns]) -> None:
    """Raises BadStatistics for a missing column, a second row of a user, a value that is no number."""
    for name in ("variation", *(name for columns in metrics for name in columns.names)):
        if name not in frame.columns:
            raise BadStatistics(f"per-user rows lack the column {name!r}")
        column = frame[name]
        if column.null_count():
            raise BadStatistics(f"column {name!r} has empty cells: a user who did nothing has a 0")
        if name != "variation" and not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
            raise BadStatistics(f"column {name!r} is {column.dtype}, not numbers")
        if column.dtype.is_float() and not column.is_finite().all():
            raise BadStatistics(f"column {name!r} has values that are not finite numbers")
    if "user_id" in frame.columns and frame["user_id"].is_duplicated().any():
        user = frame.filter(pl.col("user_id").is_duplicated())["user_id"][0]
        raise BadStatistics(f"user {user!r} has more than one row: sum up each user first")


def winsor_cap(frame: pl.DataFrame, column: str) -> float | None:
    """The p99.9 of users who have any of it, all variations together; None where nobody lies above."""
    values = frame[column].cast(pl.Float64)
    cap = values.filter(values > 0).quantile(WINSOR_QUANTILE, "linear")
    return cap if cap is not None and (values > cap).any() else None


def _sum_up(frame: pl.DataFrame, columns: MetricColumns, cap: float | None) -> list[MetricStatistics]:
    y = pl.col(columns.value).cast(pl.Float64)
    y = y if cap is None else y.clip(upper_bound=cap)
    d = pl.col(columns.denominator).cast(pl.Float64) if columns.denominator else pl.lit(1.0)
    x = pl.lit(0.0)
    if columns.covariate:
        x = pl.col(columns.covariate).cast(pl.Float64)
        limit = winsor_cap(frame, columns.covariate) if cap is not None else None
        x = x if limit is None else x.clip(upper_bound=limit)
    table = frame.select("variation", y.alias("y"), d.alias("d"), x.alias("x"))
    table = table.group_by("variation", maintain_order=True).agg(pl.len().cast(pl.Float64).alias("n"), *SUMS)
    return [
        MetricStatistics(
            variation=str(row["variation"]),
            metric=columns.metric,
            kind=columns.kind,
            cap=cap,
            moments=Moments(**{name: row[name] for name in MOMENTS}),
        )
        for row in table.to_dicts()
    ]


SUMS = [(pl.col(name[-1]) * (pl.col(name[-2]) if name[-2] != "_" else 1.0)).sum().alias(name) for name in MOMENTS[1:]]
