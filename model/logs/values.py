"""Values of any type to typed columns, each checked, part by part; what all parts say together is known at the end.

Ids are 64-bit integers where every one of the log is one in plain form, else text: "07" and "7" stay different ids.
The rule for ids is that of model/ids.py, the same as in requests.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from model.ids import CONTROL, MAX_CHARACTERS
from model.logs.events import SIGNALS, Account, DataError, EventLog, ReadReport, Unit, shown
from model.logs.missing import missing_reason
from model.logs.times import Checked, TimeReader, number_reason

TRUTH = {"true": "1", "false": "0"}
IDS = ("user", "item")


@dataclass(frozen=True)
class RawPart:
    """Rows of one file as they stand in it, not yet checked."""

    frame: pl.DataFrame  # our columns, of any type, and `line`
    bad: tuple[tuple[int, str], ...] = ()  # (line, reason) of rows of the wrong shape, which are not in the frame
    source: str = ""  # the file, where there are several
    share: float = 1.0  # of its file that has been read with it


@dataclass
class _Ids:
    """The ids of one column; changed in place while parts come."""

    parts: list[pl.Series] = field(default_factory=list)
    num_texts: int = 0  # ids that are no plain integers
    first_text: str = ""

    def add(self, values: pl.Series, line: pl.Series, source: str) -> None:
        if values.dtype != pl.String:
            self.parts.append(values)
            return
        integers = _plain_integers(values)
        if not integers.null_count():  # the texts among them stood in rows that are left out
            self.parts.append(integers)
            return
        # each text is kept once, however many events have it
        self.parts.append(values.cast(pl.Categorical))
        if not self.num_texts:
            at = integers.is_null().arg_max() or 0
            self.first_text = f"{source} line {line[at]}: {shown(values[at])}".lstrip()
        self.num_texts += integers.null_count()

    def join(self) -> pl.Series:
        if not self.num_texts:
            return pl.concat(self.parts)
        texts = [
            part if part.dtype == pl.Categorical else part.cast(pl.String).cast(pl.Categorical) for part in self.parts
        ]
        return pl.concat(texts)

    def note(self, name: str) -> str:
        total = sum(map(len, self.parts))
        if not self.num_texts:
            return f"{name} ids: 64-bit integers"
        if self.num_texts == total:
            return f"{name} ids: text"
        return (
            f"{name} ids: text, because {self.num_texts} of {total} are no plain integers ({self.first_text}); "
            "a request must send every one as text"
        )


class Collector:
    """Checks parts of a log and puts them together."""

    def __init__(self, timezone: str | None = None, signals: Collection[str] = SIGNALS) -> None:
        """signals: those whose values are kept; all are checked."""
        self._times, self._kept = TimeReader(timezone), set(signals)
        self._ids: Mapping[str, _Ids] = {name: _Ids() for name in IDS}
        self._times_of: list[pl.Series] = []  # of parts that have times
        self._signals: list[pl.DataFrame] = []
        self._account = Account()
        self._ignored: dict[str, None] = {}
        self._notes: dict[str, None] = {}

    def note(self, ignored: Iterable[str], notes: Iterable[str]) -> None:
        """Keeps what a file's layout says, each sentence once."""
        self._ignored |= dict.fromkeys(ignored)
        self._notes |= dict.fromkeys(notes)

    def add(self, part: RawPart) -> None:
        """Checks the rows of a part; a row with any bad value is reported and left out."""
        columns = {name: self._check(name, part) for name in part.frame.columns if name != "line"}
        typed = pl.DataFrame([checked.values.alias(name) for name, checked in columns.items()])
        line = part.frame["line"]
        reasons = [checked.reason for checked in columns.values() if checked.reason is not None]
        bad = list(part.bad)
        if reasons:
            reason = pl.select(pl.coalesce(*reasons)).to_series()
            failed = reason.is_not_null()
            bad += zip(line.filter(failed).to_list(), reason.filter(failed).to_list(), strict=True)
            typed, line = typed.filter(~failed), line.filter(~failed)
        self._account.add(part.frame.height + len(part.bad), sorted(bad), part.source)
        for name in IDS:
            self._ids[name].add(typed[name], line, part.source)
        if "time" in columns:
            self._times_of.append(typed["time"])
        # a column of its own keeps the number of rows where a file has no signals
        row = pl.repeat(0, len(line), dtype=pl.UInt8, eager=True).alias("row")
        kept = [typed[name] for name in typed.columns if name in self._kept]
        self._signals.append(pl.DataFrame([row, *kept]))

    def finish(self) -> tuple[EventLog, ReadReport]:
        """The log of all parts and the account of their rows."""
        if not self._signals:
            return _nothing(), self._account.report(self._ignored, self._notes)
        times, unit, told = self._joined_times()
        ids = {name: self._ids[name].join() for name in IDS}
        columns = [pl.DataFrame({**ids, "time": times}), pl.concat(self._signals, how="diagonal")]
        frame = pl.concat(columns, how="horizontal")
        ordered = ("user", "item", "time", *(name for name in SIGNALS if name in frame.columns))
        notes = [*self._notes, told, *(self._ids[name].note(name) for name in IDS)]
        log = EventLog(frame.select(ordered), unit, has_times=bool(self._times_of))
        return log, self._account.report(self._ignored, filter(None, notes))

    def _joined_times(self) -> tuple[pl.Series, Unit | None, str]:
        if not self._times_of:
            return pl.int_range(sum(map(len, self._ids["user"].parts)), eager=True), None, ""
        if len(self._times_of) < len(self._signals):
            raise DataError("some of the files have times and others have none; their order cannot be told")
        return self._times.join(self._times_of)

    def _check(self, name: str, part: RawPart) -> Checked:
        raw = part.frame[name]
        if name in IDS:
            return check_ids(name, raw)
        if name == "time":
            return self._times.read(raw, part.frame["line"], part.source)
        return check_signal(name, raw)


def _nothing() -> EventLog:
    return EventLog(pl.DataFrame(schema={"user": pl.Int64, "item": pl.Int64, "time": pl.Int64}))


def check_ids(name: str, raw: pl.Series) -> Checked:
    """Int64 where every id is an integer in plain form, else String."""
    if raw.dtype == pl.Int64:
        missing = raw.is_null()
        if not missing.any():
            return Checked(raw)
        return Checked(raw, pl.select(pl.when(missing).then(pl.lit(f"{name} id is empty"))).to_series())
    text = raw.str.strip_chars()
    integers = _plain_integers(text)
    if not integers.null_count():
        return Checked(integers)
    frame = pl.DataFrame({"id": text})
    bad = pl.when(pl.lit(integers).is_null()).then(_id_reason("id", f"{name} id"))
    reason = frame.select(bad.alias("reason"))["reason"]
    # what is no id does not decide the type of the others
    usable = integers.is_not_null() | reason.is_not_null()
    return Checked(integers if usable.all() else text, reason)


def check_signal(name: str, raw: pl.Series) -> Checked:
    """Float64; nothing where a signal was not recorded."""
    if raw.dtype != pl.String:
        raw = raw.cast(pl.Float64, strict=False).fill_nan(None)
        if (raw >= 0).all() and raw.is_finite().all():
            return Checked(raw)
        raw = raw.cast(pl.String)
    text = raw.str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    if not numbers.null_count() and numbers.is_finite().all() and (numbers >= 0).all():
        return Checked(numbers)
    text = text.str.to_lowercase().replace(TRUTH)
    frame = pl.DataFrame({"text": text, "number": text.cast(pl.Float64, strict=False)})
    missing = missing_reason("text", name).is_not_null()
    reason = pl.when(~missing).then(number_reason("text", "number", name)).alias("reason")
    number = pl.when(~missing).then(pl.col("number")).alias(name)
    checked = frame.select(number, reason)
    return Checked(checked[name], checked["reason"])


def as_plain(column: pl.Series, name: str, source: object) -> pl.Series:
    """A column of a typed file as String, a number, Date or Datetime; ids as Int64 or String.

    Raises DataError for a type that the column cannot have.
    """
    if _is_unusable(column.dtype, name):
        raise DataError(f"{source}: column {shown(column.name)} holds {_type(column)}, which is no {_wanted(name)}")
    if column.dtype == pl.Binary:
        return _decoded(column)
    if column.dtype in (pl.Categorical, pl.Enum, pl.Null) or column.dtype.is_decimal():
        return column.cast(pl.String)
    if name in IDS and column.dtype.is_float():
        return _whole(column)
    if column.dtype.is_integer() and column.dtype != pl.Int64:
        narrow = column.cast(pl.Int64, strict=False)
        return narrow if narrow.null_count() == column.null_count() else column.cast(pl.String)
    return column.cast(pl.Int64) if column.dtype == pl.Boolean else column


def _is_unusable(kind: pl.DataType, name: str) -> bool:
    if kind.is_nested() or kind in (pl.Object, pl.Time, pl.Duration):
        return True
    if name == "time":
        return kind == pl.Boolean
    return kind in (pl.Date, pl.Datetime) or (name in IDS and kind == pl.Boolean)


def _wanted(name: str) -> str:
    kinds = {"user": "id of a user", "item": "id of an item", "time": "time"}
    return kinds.get(name, f"number, as {name} is")


def _type(column: pl.Series) -> str:
    return "a list" if isinstance(column.dtype, pl.List | pl.Array) else shown(column.dtype)


def _whole(column: pl.Series) -> pl.Series:
    # pandas turns integer columns with gaps into floats, and the gaps into NaN: 12.0 is the id 12.
    finite = column.set(~column.is_finite(), None)
    if (finite.drop_nulls() % 1 == 0).all() and (finite.drop_nulls().abs() < 2**63).all():
        return finite.cast(pl.Int64)
    return finite.cast(pl.String)


def _decoded(column: pl.Series) -> pl.Series:
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError:
        texts = (None if value is None else value.decode(errors="replace") for value in column)
        return pl.Series(column.name, texts, dtype=pl.String)


def _plain_integers(text: pl.Series) -> pl.Series:
    """The 64-bit integers among texts, null for all others; the round trip refuses "+7", "007", "-0" and overflow."""
    integers = text.cast(pl.Int64, strict=False)
    same = integers.cast(pl.String) == text
    return integers if same.all() and not same.null_count() else integers.set(~same.fill_null(False), None)


def _id_reason(name: str, label: str) -> pl.Expr:
    """Why a text is no id; null where it is one."""
    text = pl.col(name)
    return (
        pl.when(missing_reason(name, label).is_not_null())
        .then(missing_reason(name, label))
        .when(text.str.contains("\ufffd", literal=True))
        .then(pl.lit(f"{label} is not UTF-8"))
        .when(text.str.contains(CONTROL))
        .then(pl.lit(f"{label} holds a control character"))
        .when(text.str.len_chars() > MAX_CHARACTERS)
        .then(pl.lit(f"{label} is longer than {MAX_CHARACTERS} characters"))
    )
