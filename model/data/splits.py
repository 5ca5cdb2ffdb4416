"""From an event log to a prepared data set: k-core, rows for ids, leave-one-out or a cut by time.

Events are sorted by time; equal times keep the order of the log. Repeats stay: an item watched twice stands twice. Item
rows 1..N and user rows 1..U follow the sorted external ids of what k-core left, whichever split they occur in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from math import ceil
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.categories import Categories, encode_categories
from model.data.marks import Flags, Marks
from model.data.outcomes import columns_of, marks_of
from model.data.sequences import SPLITS, SequenceData
from model.logs.events import EXACT, DataError, EventLog, Time, Unit
from model.logs.times import is_date, to_time

Protocol = Literal["leave-one-out", "by-time"]
TRAIN, VALID, TEST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class TimeCut:
    """Train < valid_from <= valid < test_from <= test; events of one time are never parted.

    Each is a number in the log's unit, or a text: such a number, or a date.
    """

    valid_from: Time | str
    test_from: Time | str

    def __post_init__(self) -> None:
        # the log's unit is not known yet; any will do for two dates, and numbers need none
        times = [to_time(time, "s") if isinstance(time, str) else time for time in (self.valid_from, self.test_from)]
        if len({isinstance(time, str) and is_date(time) for time in (self.valid_from, self.test_from)}) == 1:
            self._check(*times)

    def times(self, unit: Unit | None) -> tuple[Time, Time]:
        """Both as numbers in the log's unit.

        Raises DataError for a text that is no time, and for a cut that runs backwards.
        """
        valid_from, test_from = (
            to_time(time, unit) if isinstance(time, str) else time for time in (self.valid_from, self.test_from)
        )
        self._check(valid_from, test_from)
        return valid_from, test_from

    def _check(self, valid_from: Time, test_from: Time) -> None:
        if not valid_from < test_from:
            raise DataError(f"the cut runs backwards: valid from {self.valid_from}, test from {self.test_from}")


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How a log is filtered and divided."""

    protocol: Protocol = "leave-one-out"
    k_core: int = 0  # 0 = off; every user and every item keeps at least so many events
    valid_share: float = 0.1  # of all events, by time; used where `cut` is None
    test_share: float = 0.1
    cut: TimeCut | None = None
    seen_targets: bool = True  # an item of the history counts as a target when it is watched again

    def __post_init__(self) -> None:
        if self.protocol not in ("leave-one-out", "by-time"):
            raise DataError(f"unknown split {self.protocol!r}; use leave-one-out or by-time")
        if self.k_core < 0:
            raise DataError(f"k_core is {self.k_core}; it must be 0 (off) or more")
        if min(self.valid_share, self.test_share) <= 0 or self.valid_share + self.test_share >= 1:
            raise DataError(f"shares must be above 0 and leave a train part, not {self.valid_share}, {self.test_share}")


@dataclass(frozen=True)
class RowEvents:
    """Events as rows of known id maps, oldest first within each user."""

    items: IdMap
    users: IdMap
    user_rows: NDArray[np.int32]  # (E,) 1..U
    item_rows: NDArray[np.int32]  # (E,) 1..N
    parts: NDArray[np.int8]  # (E,) TRAIN, VALID or TEST
    marks: Mapping[str, Flags] = field(default_factory=dict)  # (E,) by outcome

    def places(self, part: int) -> NDArray[np.int64]:
        """The places of a part's events, user by user."""
        places = np.flatnonzero(self.parts == part)
        # stable: events come by time and stay so within a user
        return places[np.argsort(self.user_rows[places], kind="stable")]

    def sequences(self, part: int) -> Ragged:
        places = self.places(part)
        offsets = np.zeros(len(self.users) + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.user_rows[places] - 1, minlength=len(self.users)), out=offsets[1:])
        return Ragged(offsets, self.item_rows[places].astype(np.int32, copy=False))

    def to_data(
        self, name: str, protocol: Protocol | Literal["given"], categories: Ragged | None = None
    ) -> SequenceData:
        """The prepared data set; popularity counts the train part only."""
        train, valid, test = (self.sequences(part) for part in (TRAIN, VALID, TEST))
        counts = np.bincount(train.values, minlength=len(self.items) + 1)[1:].astype(np.int64)
        catalogue = Catalogue(self.items, self.users, counts, categories)
        places = [self.places(part) for part in (TRAIN, VALID, TEST)] if self.marks else []
        outcomes = {name: Marks(*(flags[own] for own in places)) for name, flags in self.marks.items()}
        return SequenceData(name, catalogue, train, valid, test, protocol, outcomes=outcomes)


def split_log(name: str, log: EventLog, rule: SplitRule, categories: Categories | None = None) -> SequenceData:
    """Filters, numbers and divides a log.

    Raises DataError when k-core or the cut leaves a part without events, or without targets.
    """
    if rule.protocol == "by-time" and not log.has_times:
        raise DataError("the log has no times, so it cannot be cut by time; use the split leave-one-out")
    kept = log.frame.select("user", "item", "time", *columns_of(log.frame))
    core, unit = keep_core(kept, rule.k_core), log.unit
    del log, kept  # whoever keeps no log of its own has its memory back: what follows needs less
    order = _order_of(core["time"])
    (items, item_rows), (users, user_rows) = (_number(core[name], order) for name in ("item", "user"))
    if rule.protocol == "leave-one-out":
        parts = _parts_by_user(user_rows)
    else:
        parts = _parts_by_time(core["time"] if order is None else core["time"].gather(order), rule, unit)
    marks = {name: flags if order is None else flags[order.to_numpy()] for name, flags in marks_of(core).items()}
    del core, order
    events = RowEvents(items, users, user_rows, item_rows, parts, marks)
    _check_parts(parts, rule)
    data = events.to_data(name, rule.protocol, encode_categories(items, categories) if categories else None)
    data = replace(data, seen_targets=rule.seen_targets)
    _check_targets(data)
    return data


def undivided(name: str, log: EventLog) -> SequenceData:
    """The log with all of its events in train, oldest first: histories, and nothing to measure by."""
    order = _order_of(log.times)
    (items, item_rows), (users, user_rows) = _number(log.items, order), _number(log.users, order)
    parts = np.full(len(log), TRAIN, dtype=np.int8)
    return RowEvents(items, users, user_rows, item_rows, parts).to_data(name, "given")


def keep_core(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """The largest part in which every user and every item has at least k events, repeats counted; order kept.

    Raises DataError when nothing is left.
    """
    if k <= 1 and frame.height:
        return frame
    enough = (pl.len().over("user") >= k) & (pl.len().over("item") >= k)
    before = -1
    # Dropping an item can push a user below k and the other way round: repeat until nothing changes.
    while frame.height != before:
        before = frame.height
        frame = frame.filter(enough)
    if not frame.height:
        raise DataError(f"nothing is left of the log after the {k}-core; use a smaller k_core")
    return frame


def _order_of(times: pl.Series) -> pl.Series | None:
    """The places of events by time, equal ones as they stand; None where they are in order already."""
    if times.is_sorted():
        return None
    return times.to_frame("time").select(pl.arg_sort_by("time", maintain_order=True)).to_series()


def _number(ids: pl.Series, order: pl.Series | None) -> tuple[IdMap, NDArray[np.int32]]:
    """The sorted ids, and the row of each event's id, in an order of the events."""
    known = ids.unique()
    names = (known.cast(pl.String) if known.dtype == pl.Categorical else known).sort()
    if ids.dtype == pl.Categorical:
        # a code for each text, with gaps where texts are of another column
        codes = known.to_physical().to_numpy()
        rows = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.int32)
        rows[codes] = names.search_sorted(known.cast(pl.String)).to_numpy() + 1
        numbered = rows[ids.to_physical().to_numpy()]
    else:
        numbered = names.search_sorted(ids).to_numpy().astype(np.int32) + 1
    return IdMap.of(names.to_list()), numbered if order is None else numbered[order.to_numpy()]


def _parts_by_user(user_rows: NDArray[np.int32]) -> NDArray[np.int8]:
    """The last event of a user is test, the one before valid; users of fewer than 3 events stay in train."""
    lengths = np.bincount(user_rows)
    # positions by user, each user's by time: the last one of every user, and the one before
    by_user = np.argsort(user_rows, kind="stable")
    last = np.cumsum(lengths)[lengths >= 3] - 1
    parts = np.full(len(user_rows), TRAIN, dtype=np.int8)
    parts[by_user[last]], parts[by_user[last - 1]] = TEST, VALID
    return parts


def _parts_by_time(times: pl.Series, rule: SplitRule, unit: Unit | None) -> NDArray[np.int8]:
    valid_from, test_from = rule.cut.times(unit) if rule.cut else _cut_by_shares(times, rule)
    is_later = [(times >= _comparable(edge, times)).cast(pl.Int8) for edge in (valid_from, test_from)]
    return (is_later[0] + is_later[1]).to_numpy()


def _comparable(edge: Time, times: pl.Series) -> Time:
    """The edge in the type of the times, so that no digit is lost by comparing."""
    if times.dtype == pl.Float64:
        return float(edge)
    return Decimal(str(edge)) if times.dtype == EXACT else ceil(edge)


def _cut_by_shares(times: pl.Series, rule: SplitRule) -> tuple[Time, Time]:
    # The cut is a time of the log, not a row number, so equal times stay together and shares hold only roughly.
    last = len(times) - 1  # times are sorted
    valid_at, test_at = (round(last * (1 - share)) for share in (rule.valid_share + rule.test_share, rule.test_share))
    if not times[0] < times[valid_at] < times[test_at]:
        raise DataError("too few different times for a split by time; give the two cut times, or use leave-one-out")
    return times[valid_at], times[test_at]


def _check_parts(parts: NDArray[np.int8], rule: SplitRule) -> None:
    if rule.protocol == "leave-one-out":
        if not (parts == TEST).any():
            raise DataError("no user has 3 events, so leave-one-out has nothing to test; use a longer log or by-time")
        return
    empty = [name for number, name in enumerate(("train", "valid", "test")) if not (parts == number).any()]
    if empty:
        raise DataError(f"the cut by time leaves {' and '.join(empty)} empty; choose cut times within the log")


def _check_targets(data: SequenceData) -> None:
    for split in SPLITS:
        if not len(data.users_with_targets(split)):
            raise DataError(
                f"each of the {data.num_seen(split)} {split} targets stands in its user's history already, and what "
                "was seen is never listed: there is nothing to measure; use a longer log"
            )
