"""The tables of the event log: which stream each is of, its columns, and how an event becomes a row.

The rows are what service/experiments writes, read strictly, and a field that a later service adds is passed over. Ids
of items are text: a column of a table has one type, and `recall prepare` reads numbers back from text.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl

from service.events.streams import EXPOSURES, FEEDBACK, FORCED, INTERLEAVED, SHADOW, SHOWN

TEXT, INTEGER, REAL = pl.String(), pl.Int64(), pl.Float64()
LISTS = {"items", "shadow_items"}  # columns of item ids


class ExposureRow(msgspec.Struct, frozen=True):
    """An exposure, or an answer that was forced."""

    id: str
    experiment: str
    phase: str
    unit: str
    assigned: str
    served: str
    reason: str
    request_id: str
    bundle: str
    ts_ms: int
    config: str = ""
    variation: str = ""
    settings: str = ""


class ListRow(msgspec.Struct, frozen=True):
    """Everything that each event of a list has."""

    request_id: str
    experiment: str
    phase: str
    config: str
    unit: str
    served: str
    bundle: str
    ts_ms: int
    items: list[int | str]


class ShownRow(ListRow, frozen=True):
    """A list that was shown."""

    variation: str
    share: float
    scores: list[float]
    asked: int | None = None  # None: an older service wrote the event
    took_ms: float | None = None


class InterleavedRow(ListRow, frozen=True):
    """A list out of the lists of two arms."""

    teams: list[str]
    picks: list[int]
    in_both: int


class ShadowRow(ListRow, frozen=True):
    """A list that was shown, and the one of a shadow arm."""

    variation: str
    share: float
    shadow: str
    shadow_bundle: str
    shadow_items: list[int | str]
    shadow_scores: list[float]
    asked: int
    shadow_took_ms: float


class FeedbackRow(msgspec.Struct, frozen=True):
    """An action of a user."""

    event_id: str
    user: str
    item: int | str
    action: str
    ts_ms: int
    request_id: str | None = None
    watch_time_ms: int | None = None
    duration_ms: int | None = None
    session: str | None = None


@dataclass(frozen=True)
class EventTable:
    """A kind of event: its stream, the form of its rows, the columns of its files."""

    name: str  # of the folder
    stream: str
    row: type[msgspec.Struct]
    columns: dict[str, pl.DataType]  # in order; before them `stream_id`
    key: tuple[str, ...]  # columns that are the same in an event that was delivered twice
    max_rows: int  # of a file

    @property
    def schema(self) -> dict[str, pl.DataType]:
        return {"stream_id": TEXT, **self.columns}

    def decode(self, stream_id: str, data: bytes) -> dict[str, Any]:
        """The row of an event. Raises msgspec.DecodeError, or UnicodeDecodeError, for what is none."""
        row = msgspec.structs.asdict(msgspec.json.decode(data, type=self.row))
        if "item" in row:
            row["item"] = str(row["item"])
        for name in LISTS & row.keys():
            row[name] = [str(item) for item in row[name]]
        return {"stream_id": stream_id, **row}


EXPOSURE_COLUMNS: dict[str, pl.DataType] = {
    **dict.fromkeys(("id", "experiment", "phase", "config", "unit", "variation", "assigned", "served"), TEXT),
    **dict.fromkeys(("reason", "request_id", "bundle"), TEXT),
    "ts_ms": INTEGER,
    "settings": TEXT,
}
SHOWN_COLUMNS: dict[str, pl.DataType] = {
    **dict.fromkeys(("request_id", "experiment", "phase", "config", "unit", "variation", "served", "bundle"), TEXT),
    "ts_ms": INTEGER,
    "share": REAL,
    "items": pl.List(TEXT),
    "scores": pl.List(REAL),
    "asked": INTEGER,
    "took_ms": REAL,
}
INTERLEAVED_COLUMNS: dict[str, pl.DataType] = {
    **dict.fromkeys(("request_id", "experiment", "phase", "config", "unit", "served", "bundle"), TEXT),
    "ts_ms": INTEGER,
    "teams": pl.List(TEXT),
    "picks": pl.List(pl.Int8()),
    "in_both": INTEGER,
    "items": pl.List(TEXT),
}
SHADOW_COLUMNS: dict[str, pl.DataType] = {
    **dict.fromkeys(("request_id", "experiment", "phase", "config", "unit", "variation", "served", "bundle"), TEXT),
    "ts_ms": INTEGER,
    "share": REAL,
    "items": pl.List(TEXT),
    "shadow": TEXT,
    "shadow_bundle": TEXT,
    "shadow_items": pl.List(TEXT),
    "shadow_scores": pl.List(REAL),
    "asked": INTEGER,
    "shadow_took_ms": REAL,
}
FEEDBACK_COLUMNS: dict[str, pl.DataType] = {
    **dict.fromkeys(("event_id", "user", "item", "action", "request_id"), TEXT),
    **dict.fromkeys(("ts_ms", "watch_time_ms", "duration_ms"), INTEGER),
    "session": TEXT,
}
TABLES = (
    EventTable("exposures", EXPOSURES, ExposureRow, EXPOSURE_COLUMNS, ("id",), 20_000),
    EventTable("shown", SHOWN, ShownRow, SHOWN_COLUMNS, ("request_id",), 4_000),
    EventTable("interleaved", INTERLEAVED, InterleavedRow, INTERLEAVED_COLUMNS, ("request_id",), 4_000),
    EventTable("shadow", SHADOW, ShadowRow, SHADOW_COLUMNS, ("request_id",), 4_000),
    EventTable("forced", FORCED, ExposureRow, EXPOSURE_COLUMNS, ("request_id",), 20_000),
    EventTable("feedback", FEEDBACK, FeedbackRow, FEEDBACK_COLUMNS, ("user", "event_id"), 20_000),
)
