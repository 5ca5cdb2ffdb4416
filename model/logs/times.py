"""Times of any form to one column at full resolution: numbers stay in the log's unit, dates become counts since 1970.

Numbers are 64-bit integers, or exact to nine places where some have fractions. Dates with a time of day count in
milliseconds, or in microseconds or nanoseconds where some need them; where they name no zone they are UTC or in the
zone that is given. A log that mixes units (seconds and milliseconds ..) is refused: its order would be nonsense.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast, get_args

import polars as pl

from model.logs.events import EXACT, DataError, Time, Unit, shown
from model.logs.missing import missing_reason

DATE = re.compile(r"\s*\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[T ]\d{1,2}:\d{2}.*)?\s*", re.DOTALL)
ZONE = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)? ?(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)$"
FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
SPOKEN = "%a %b %d %H:%M:%S %z %Y"  # Tue Apr 03 18:00:06 +0000 2012
SPOKEN_DATE = re.compile(r"\s*[A-Z][a-z]{2} [A-Z][a-z]{2} \d{1,2} \d{2}:\d{2}:\d{2} [+-]\d{4} \d{4}\s*")
LEAST_EPOCH = 1e8  # a number from here on is taken for seconds since 1970, or for a finer count
YEARS = (datetime(1678, 1, 1), datetime(2262, 1, 1))  # where 64 bits hold nanoseconds
UNITS: tuple[Unit, ...] = get_args(Unit)
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# 1989 to 2103 in seconds; the four bands are far apart, so that times between them belong to no unit
BAND = (6e8, 4.2e9)


@dataclass(frozen=True, slots=True)
class Checked:
    """A typed column, and why a value cannot be used; no reason is null for all."""

    values: pl.Series
    reason: pl.Series | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A time that shows a unit."""

    line: int
    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.source} line {self.line}: {self.text}".lstrip()


def looks_like_time(text: str) -> bool:
    """Says whether a text is a date, or a number that can only be a time since 1970."""
    try:
        return float(text) >= LEAST_EPOCH
    except ValueError:
        return is_date(text) or bool(SPOKEN_DATE.fullmatch(text))


def is_date(text: str) -> bool:
    """Says whether a text has the form of a date."""
    return bool(DATE.fullmatch(text))


class TimeReader:
    """Reads the times of a log part by part; what the parts say together is known at the end."""

    def __init__(self, timezone: str | None = None) -> None:
        self._timezone = _checked_zone(timezone)
        self._is_date: bool | None = None  # decided by the first part: what most of its times are
        self._zone_was_used = False
        self._units: dict[Unit, Seen] = {}
        self._between = False  # times that belong to no unit since 1970

    def read(self, raw: pl.Series, line: pl.Series, source: str) -> Checked:
        """The times of one part; raw is String, a number, Date or Datetime."""
        has_dates = raw.dtype in (pl.Date, pl.Datetime)
        if raw.dtype == pl.String:
            raw = raw.str.strip_chars()
            has_dates = self._is_date if self._is_date is not None else _mostly_dates(raw)
        if self._is_date is not None and has_dates != self._is_date:
            raise DataError(f"{source} has times as {_kind(has_dates)}, and files before it as {_kind(self._is_date)}")
        self._is_date = has_dates if len(raw) else self._is_date
        if has_dates:
            return self._dates(raw)
        checked = _numbers(raw)
        self._see_units(checked, line, source)
        return checked

    def join(self, parts: Sequence[pl.Series]) -> tuple[pl.Series, Unit | None, str]:
        """(times, unit, a sentence about them) of all parts, each without its bad rows.

        Raises DataError for mixed units, and for a zone that no time needs.
        """
        if self._timezone is not None and not self._zone_was_used:
            raise DataError(f"--timezone {self._timezone} has no effect: every time is a number or names its zone")
        if self._is_date:
            return _joined_dates(parts)
        self._check_units()
        types = {part.dtype for part in parts}
        common = types.pop() if len(types) == 1 else EXACT
        times = pl.concat([part.cast(common) for part in parts])
        unit = next(iter(self._units), None) if not self._between else None
        return times, unit, _told(times, unit)

    def _dates(self, raw: pl.Series) -> Checked:
        named, values = _parse_dates(raw) if raw.dtype == pl.String else _as_datetimes(raw)
        unnamed = values.is_not_null() & ~named
        if unnamed.any():
            self._zone_was_used = True
            # a time that a clock shows twice is the earlier one; a time that it skips is bad
            local = values.dt.replace_time_zone(self._timezone or "UTC", ambiguous="earliest", non_existent="null")
            values = values.zip_with(named, local.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
        texts = pl.DataFrame({"text": raw if raw.dtype == pl.String else raw.to_physical().cast(pl.String)})
        shortened = pl.col("text").str.slice(0, 40)
        reason = pl.coalesce(missing_reason("text", "time"), pl.format("time is not a date: {}", shortened))
        return Checked(values, texts.select(pl.when(values.is_null()).then(reason).alias("reason"))["reason"])

    def _see_units(self, checked: Checked, line: pl.Series, source: str) -> None:
        good = checked.values if checked.reason is None else checked.values.set(checked.reason.is_not_null(), None)
        times = good.cast(pl.Float64)
        if self._between or times.null_count() == len(times):
            return
        inside = pl.repeat(False, len(times), eager=True)
        for unit in UNITS:
            low, high = (edge * PER_SECOND[unit] for edge in BAND)
            band = times.is_between(low, high)
            if band.any() and unit not in self._units:
                at = band.arg_max() or 0
                self._units[unit] = Seen(line[at], str(good[at]), source)
            inside |= band
        self._between = bool(((times > BAND[0]) & ~inside).any())

    def _check_units(self) -> None:
        if len(self._units) < 2 or self._between:
            return
        places = " and ".join(f"{UNIT_NAMES[unit]} ({seen})" for unit, seen in list(self._units.items())[:2])
        raise DataError(f"the times mix {places}; bring them to one unit")


def to_time(text: str, unit: Unit | None) -> Time:
    """A time that a person gives: a number of the log's unit, or a date (UTC unless it names a zone).

    Raises DataError when it is neither, and for a date where the log's times are no times since 1970.
    """
    read = _numbers(pl.Series([text.strip()]))
    if read.reason is None or read.reason[0] is None:
        time: Time = read.values[0]
        return time
    _, values = _parse_dates(pl.Series([text.strip()]))
    if values[0] is None:
        raise DataError(f"{shown(text)} is neither a number nor a date such as 2024-01-31 or 2024-01-31 23:59")
    if unit is None:
        raise DataError(f"{shown(text)} is a date, and the log's times are numbers of no known unit; give a number")
    nanoseconds = int(values.cast(pl.Datetime("ns")).to_physical()[0])
    return nanoseconds * PER_SECOND[unit] // PER_SECOND["ns"]


def _checked_zone(timezone: str | None) -> str | None:
    if timezone is not None:
        try:
            pl.Series([YEARS[0]]).dt.replace_time_zone(timezone)
        except pl.exceptions.PolarsError:
            raise DataError(f"unknown time zone {shown(timezone)}; one is called Asia/Shanghai, another UTC") from None
    return timezone


def _kind(has_dates: bool) -> str:
    return "dates" if has_dates else "numbers"


def _mostly_dates(text: pl.Series) -> bool:
    """Says whether more texts are dates than numbers."""
    numbers = text.cast(pl.Float64, strict=False)
    if not numbers.null_count():
        return False
    others = text.filter(numbers.is_null())
    dates = others.str.contains(r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}|^[A-Z][a-z]{2} [A-Z][a-z]{2} \d").sum()
    return int(dates or 0) > len(text) - numbers.null_count()


def _numbers(raw: pl.Series) -> Checked:
    if raw.dtype.is_integer():
        raw = raw.cast(pl.Int64, strict=False)
    whole = raw.cast(pl.Int64, strict=False) if raw.dtype == pl.String else raw
    if whole.dtype == pl.Int64 and not whole.null_count() and (whole.min() or 0) >= 0:  # type: ignore[operator]
        return Checked(whole)
    texts = raw if raw.dtype == pl.String else raw.fill_nan(None).cast(pl.String) if raw.dtype.is_float() else raw
    frame = pl.DataFrame({"text": texts.cast(pl.String)}).with_columns(
        pl.col("text").cast(pl.Float64, strict=False).alias("number")
    )
    whole_number = pl.when(pl.col("number") % 1 == 0).then(pl.col("number").cast(pl.Int64, strict=False))
    trimmed = pl.col("text").str.replace(r"\.0*$", "")
    frame = frame.with_columns(
        pl.coalesce(
            pl.col("text").cast(pl.Int64, strict=False), trimmed.cast(pl.Int64, strict=False), whole_number
        ).alias("whole"),
        number_reason("text", "number", "time").alias("reason"),
    )
    good = frame["reason"].is_null()
    if frame.filter(good)["whole"].null_count():
        # what is no whole number is small enough for nine places
        small = pl.when(pl.col("number").abs() < 2**53).then(pl.col("number"))
        exact = (pl.col("whole"), pl.col("text").cast(EXACT, strict=False), small)
        values = frame.select(pl.coalesce(*(part.cast(EXACT, strict=False) for part in exact)).alias("time"))["time"]
        return Checked(values, frame["reason"])
    return Checked(frame["whole"], frame["reason"])


def number_reason(text: str, number: str, label: str) -> pl.Expr:
    value = pl.col(number)
    return (
        pl.when(missing_reason(text, label).is_not_null())
        .then(missing_reason(text, label))
        .when(value.is_null() | value.is_nan())
        .then(pl.format("{} is not a number: {}", pl.lit(label), pl.col(text).str.slice(0, 40)))
        .when(value.is_infinite() | (value < 0))
        .then(pl.format("{} is negative or infinite: {}", pl.lit(label), pl.col(text).str.slice(0, 40)))
        .when(value >= 2**63)
        .then(pl.format("{} is too large: {}", pl.lit(label), pl.col(text).str.slice(0, 40)))
    )


def _parse_dates(text: pl.Series) -> tuple[pl.Series, pl.Series]:
    """(True where a zone is named, the date in that zone or as it stands) of each text; null where it is no date."""
    zone = text.str.extract(ZONE, 1)
    body = text.str.replace(r" ?(Z|z|UTC|[+-]\d{2}(:?\d{2})?)$", "") if zone.is_not_null().any() else text
    body = body.zip_with(zone.is_not_null(), text)
    body = body.str.replace_all("/", "-", literal=True).str.replace("T", " ", literal=True)
    body = body.str.replace(",", ".", literal=True)
    values = _within_years(_in_forms(body, "us"))
    if body.str.contains(r"\.\d{7}").any():
        values = _in_forms(body, "ns").set(values.is_null(), None)
    unit: Literal["us", "ns"] = "ns" if values.dtype == pl.Datetime("ns") else "us"
    values = values - _offsets(zone).cast(pl.Duration(unit))
    if values.null_count():
        spoken = _within_years(text.str.to_datetime(SPOKEN, time_unit="us", strict=False).dt.replace_time_zone(None))
        zone = zone.zip_with(spoken.is_null(), pl.repeat("UTC", len(zone), eager=True))
        values = values.zip_with(values.is_not_null(), spoken.cast(pl.Datetime(unit)))
    return zone.is_not_null(), values


def _in_forms(text: pl.Series, unit: Literal["us", "ns"]) -> pl.Series:
    """The date that the first form which fits makes of each text."""
    values = text.str.to_datetime(FORMATS[0], time_unit=unit, strict=False)
    for layout in FORMATS[1:]:
        if values.null_count():
            values = values.zip_with(values.is_not_null(), text.str.to_datetime(layout, time_unit=unit, strict=False))
    return values


def _within_years(values: pl.Series) -> pl.Series:
    """Nothing for dates that 64 bits of nanoseconds do not hold: they would wrap around."""
    unit = values.dtype.time_unit if isinstance(values.dtype, pl.Datetime) else None
    per_second = PER_SECOND[unit] if unit else 1 / 86_400  # dates count days
    low, high = (year.replace(tzinfo=UTC).timestamp() * per_second for year in YEARS)
    inside = values.to_physical().is_between(low, high, closed="left")
    return values.set(~inside.fill_null(True), None)


def _offsets(zone: pl.Series) -> pl.Series:
    """The distance of zones from UTC; 0 where none is named."""
    digits = zone.str.replace(":", "", literal=True).str.extract(r"[+-](\d+)", 1)
    minutes = digits.str.slice(0, 2).cast(pl.Int64) * 60 + digits.str.slice(2).replace("", "0").cast(pl.Int64)
    sign = zone.str.starts_with("-").fill_null(False).cast(pl.Int64) * -2 + 1
    return (minutes.fill_null(0) * sign * 60_000_000).cast(pl.Duration("us"))


def _as_datetimes(raw: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The same of a column of dates."""
    values = _within_years(raw)
    if not isinstance(values.dtype, pl.Datetime):
        return pl.repeat(False, len(raw), eager=True), values.cast(pl.Datetime("us"))
    if values.dtype.time_zone is None:
        return pl.repeat(False, len(raw), eager=True), values
    # what is counted is UTC, whatever the zone that it is shown in
    return pl.repeat(True, len(raw), eager=True), values.to_physical().cast(pl.Datetime(values.dtype.time_unit))


def _joined_dates(parts: Sequence[pl.Series]) -> tuple[pl.Series, Unit, str]:
    finest: Literal["us", "ns"] = "ns" if any(part.dtype == pl.Datetime("ns") for part in parts) else "us"
    counts = pl.concat([part.cast(pl.Datetime(finest)).to_physical() for part in parts])
    unit: Unit = finest
    coarser: dict[Unit, Unit] = {"ns": "us", "us": "ms"}
    while unit in coarser and (counts % 1000 == 0).all():
        counts, unit = counts // 1000, coarser[unit]
    return counts, unit, _told(counts, unit)


def _told(times: pl.Series, unit: Unit | None) -> str:
    if not len(times):
        return ""
    low, high = (cast(Time, edge) for edge in (times.min(), times.max()))
    if unit is None:
        return f"times: numbers from {low} to {high}, of no known unit"
    ends = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(t) / PER_SECOND[unit]) for t in (low, high))
    first, last = (end.strftime("%Y-%m-%d %H:%M") for end in ends)
    return f"times: {UNIT_NAMES[unit]} since 1970, from {first} to {last} (UTC)"
