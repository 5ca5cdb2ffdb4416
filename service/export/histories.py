"""The users of a prepared data set, or of a log as it is, and what each of them has watched, in external ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from model.catalogue import ExternalId, Ragged
from model.data.sequences import META, SequenceData, Split, joined
from model.data.splits import undivided
from model.folders.replace import settled
from model.logs.events import DataError, ReadReport
from model.logs.files import stem
from model.logs.readers import Progress, read_log

MAX_BAD_SHARE = 0.01  # of the rows of a log, as in `recall prepare`


@dataclass(frozen=True)
class UserHistories:
    """Users 1..U of a data set, in its order, each with the items watched, oldest first."""

    data: SequenceData
    items: Ragged  # of each user, rows of the data set
    before: Split | None = None  # the split that was left out, with what is later

    @classmethod
    def of(cls, data: SequenceData, before: Split | None = None) -> "UserHistories":
        """before: what is known when this split is predicted; None = everything."""
        parts = {"valid": (data.train,), "test": (data.train, data.valid), None: (data.train, data.valid, data.test)}
        return cls(data, joined(*parts[before]), before)

    def __len__(self) -> int:
        return len(self.items)

    def user_ids(self, users: range) -> pl.Series:
        """The ids of a run of users, counted from 0."""
        return pl.Series("user", self.data.catalogue.users.ids[users.start : users.stop].tolist())

    def of_users(self, users: range) -> Iterator[tuple[ExternalId, Sequence[ExternalId]]]:
        """The id and the history of each of a run of users, counted from 0."""
        external = self.data.catalogue.items.external
        ids = self.data.catalogue.users.ids[users.start : users.stop].tolist()
        return ((user, external(self.items[row].tolist())) for user, row in zip(ids, users, strict=True))


def read_data(path: Path, on_rows: Progress | None = None) -> tuple[SequenceData, ReadReport | None]:
    """A prepared folder, or all events of a log whose form `recall prepare` would guess, with the account of its rows.

    Raises DataError or FolderRefused, with the way out, for what is neither.
    """
    if (settled(path) / META).exists():
        return SequenceData.load(path), None
    log, report = read_log([path], on_rows=on_rows, signals=())
    report.check(path, MAX_BAD_SHARE)
    return undivided(stem(path), log), report


def check_before(data: SequenceData, before: Split | None) -> None:
    """Raises DataError where a split is to be left out that the data set does not have."""
    if before is not None and not len(data.users_with_targets(before)):
        raise DataError(f"{data.name} has no {before} split whose events could be left out; leave --before out")
