"""The names that columns go by, and the choice of those that are read. Knows nothing of files and values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model.logs.events import SIGNALS, DataError, shown

# Names by preference, compared without case, spaces and signs between words: the first one that is present is read.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "user": (
        *("user", "user_id", "uid", "user_name", "reviewer_id", "visitor_id", "viewer", "viewer_id", "customer_id"),
        *("member_id", "account_id", "profile_id", "session_id", "session"),
    ),
    "item": (
        *(
            "item",
            "item_id",
            "iid",
            "video",
            "video_id",
            "vid",
            "photo_id",
            "movie_id",
            "clip_id",
            "parent_asin",
            "asin",
        ),
        *("business_id", "product_id", "article_id", "book_id", "track_id", "song_id", "news_id", "gmap_id"),
        *("ad_id", "post_id", "content_id", "doc_id", "poi_id", "venue_id", "game_id", "goods_id"),
    ),
    "time": (
        *("time", "timestamp", "time_ms", "timestamp_ms", "ts", "timestamps", "time_stamp", "unix_review_time"),
        *("datetime", "date_time", "event_time", "created_at", "date_added", "date", "t_dat"),
    ),
    "play_time_ms": ("play_time_ms", "watch_time_ms", "play_duration", "playing_time"),
    "duration_ms": ("duration_ms", "video_duration_ms", "video_duration"),
    "watch_ratio": ("watch_ratio",),
    "like": ("like", "is_like", "liked"),
    "follow": ("follow", "is_follow", "followed"),
    "share": ("share", "is_share", "is_forward", "forward", "shared"),
    "comment": ("comment", "is_comment", "commented"),
    "click": ("click", "is_click", "clicked"),
}
REQUIRED = ("user", "item", "time")
SKIPPED = "-"
MAX_NAMES = 30  # of a header, in a sentence


@dataclass(frozen=True, slots=True)
class LogShape:
    """The facts of a log that its files do not say themselves; all of them may be left out."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the file's
    header: tuple[str, ...] = ()  # our names of the columns of files without a header; "-" skips a column
    separator: str | None = None  # of the fields of a line; None = guessed
    timezone: str | None = None  # of times that name no zone; None = UTC
    in_order: bool = False  # the lines stand in the order of time, and there is no column of times

    def __post_init__(self) -> None:
        _check_names("--column", tuple(self.columns))
        _check_names("--header", tuple(name for name in self.header if name != SKIPPED))
        if self.header and self.columns:
            raise DataError("--header names the columns of files without one, --column those of a header; give one")
        if self.in_order and "time" in (*self.columns, *self.header):
            raise DataError("a time column is named, and --in-order says that there is none; give one of them")
        if self.separator == "":
            raise DataError("the separator is empty; it is the text between two fields, such as , or ::")
        if set(self.separator or "") & set('"\r\n'):
            raise DataError("a separator holds no quote and no end of a line")

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(name for name in REQUIRED if not (self.in_order and name == "time"))


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """The columns of a file that are read, under our names."""

    positions: tuple[tuple[str, int], ...]  # (our name, position in the file), our order
    ignored: tuple[str, ...]
    note: str = ""  # which columns of the file these are

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.positions)


def plan_columns(header: Sequence[str], source: object, shape: LogShape | None = None) -> ColumnPlan:
    """Finds our columns among a file's: those that the shape names, else known names.

    Raises DataError, with the columns found and wanted, when one that is needed or named is not there.
    """
    shape = shape or LogShape()
    places = _places(header, source, shape)
    missing = [ours for ours in shape.required if ours not in places]
    if missing:
        wanted = "; ".join(f"{ours}: one of {', '.join(ALIASES[ours][:6])} .." for ours in missing)
        raise DataError(
            f"{source} lacks a column (wanted {wanted}); it has {_listed(header)}: "
            f"name it with --column {missing[0]}=NAME" + _way_out(missing)
        )
    positions = tuple((ours, places[ours]) for ours in ALIASES if ours in places)
    ignored = tuple(shown(name) for at, name in enumerate(header) if at not in places.values())
    note = ", ".join(f"{ours} = {shown(header[at].strip())}" for ours, at in positions)
    return ColumnPlan(positions, ignored, f"columns: {note}")


def name_columns(names: Sequence[str]) -> ColumnPlan:
    """The plan for a file without a header whose columns are known; "-" is a column that is not read."""
    places = {name: at for at, name in enumerate(names)}
    positions = tuple((ours, places[ours]) for ours in ALIASES if ours in places)
    note = ", ".join(f"{ours} = column {at + 1}" for ours, at in positions)
    return ColumnPlan(positions, (), f"columns: {note}")


def is_header(fields: Sequence[str], shape: LogShape) -> bool:
    """Says whether a first line names the user and the item."""
    names = {normal(name) for name in fields}
    wanted = {ours: (shape.columns[ours],) if ours in shape.columns else ALIASES[ours] for ours in ("user", "item")}
    return all(names & {normal(name) for name in known} for known in wanted.values())


def normal(name: str) -> str:
    """A column's name without case and without what stands between its words: `User ID` is `user_id` is `userId`."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    return letters or name.strip().lower()


def _places(header: Sequence[str], source: object, shape: LogShape) -> dict[str, int]:
    names = [normal(name) for name in header]
    places: dict[str, int] = {}
    for ours, theirs in shape.columns.items():
        exact = [at for at, name in enumerate(header) if name.strip() == theirs.strip()]
        similar = exact or [at for at, name in enumerate(names) if name == normal(theirs)]
        if not similar:
            raise DataError(f"{source} has no column {shown(theirs)} for {ours}; it has {_listed(header)}")
        if similar[0] in places.values():
            raise DataError(f"--column reads {shown(theirs)} twice; a column of a file is one of ours")
        places[ours] = similar[0]
    taken = set(places.values())
    for ours, known in ALIASES.items():
        free = {name: at for at, name in reversed([*enumerate(names)]) if at not in taken}
        at = next((free[normal(alias)] for alias in known if normal(alias) in free), None)
        if ours not in places and at is not None and not (ours == "time" and shape.in_order):
            places[ours] = at
    return places


def _listed(header: Sequence[str]) -> str:
    names = ", ".join(shown(name.strip(), 40) for name in header[:MAX_NAMES]) or "none"
    return names + (f" and {len(header) - MAX_NAMES} more" if len(header) > MAX_NAMES else "")


def _way_out(missing: Sequence[str]) -> str:
    return ", or say with --in-order that the lines stand in the order of time" if list(missing) == ["time"] else ""


def _check_names(option: str, names: Sequence[str]) -> None:
    known = (*REQUIRED, *SIGNALS)
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise DataError(f"{option} knows the columns {', '.join(known)}, not {shown(unknown)}")
    if len(set(names)) < len(names):
        raise DataError(f"{option} names a column twice")
