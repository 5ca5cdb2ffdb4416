"""Exports lists for all users: histories -> batches -> lists -> tables -> parts -> one file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from model import __version__
from model.folders.files import FolderRefused
from service.engine.loading import LoadedArm
from service.export.histories import UserHistories
from service.export.lists import ListMaker, User, UserList
from service.export.parts import Facts, PartFolder
from service.export.tables import ListTable

PART_USERS = 2048
GROUP_ROWS = 8192  # of the file: what a reader holds at once
# the tables of numbered parts, in any order; the function is told of so many more users who have their lists
MakeParts = Callable[[Sequence[int], Callable[[int], None]], Iterator[tuple[int, pl.DataFrame]]]


@dataclass(frozen=True)
class ListExport:
    """The lists of one arm for the users of one data set."""

    arm: LoadedArm
    histories: UserHistories
    top_n: int = 100
    part_users: int = PART_USERS  # that are written at once: the most that a kill costs

    @property
    def num_parts(self) -> int:
        return -(-len(self.histories) // self.part_users)

    def users_of(self, part: int) -> range:
        return range(part * self.part_users, min((part + 1) * self.part_users, len(self.histories)))

    def facts(self, device: str) -> Facts:
        """All that decides the bytes of the file: parts of other facts are not gone on with."""
        return {
            "bundle": self.arm.release.bundle,
            "data": self.histories.data.digest,
            "before": self.histories.before,
            "top_n": self.top_n,
            "part_users": self.part_users,
            "device": device,
            "version": __version__,
        }

    def num_done(self, folder: PartFolder) -> int:
        """The users whose parts an earlier run has left."""
        return sum(len(self.users_of(part)) for part in range(self.num_parts) if folder.has(part))

    def run(
        self, folder: PartFolder, on_progress: Callable[[int], None] = lambda _: None, make: MakeParts | None = None
    ) -> None:
        """Writes the parts that are not there yet, then the file.

        on_progress: told the users done so far. make: what makes the tables of parts; None: this process, by `tables`.
        """
        # a part has its name once it is whole: what a kill left is taken as it is
        todo = [part for part in range(self.num_parts) if not folder.has(part)]
        done = self.num_done(folder)

        def listed(more: int) -> None:
            nonlocal done
            done += more
            on_progress(done)

        listed(0)
        for part, table in (make or self.tables)(todo, listed):
            folder.write(part, table)
        folder.finish(self.num_parts, GROUP_ROWS)

    def tables(self, parts: Sequence[int], on_listed: Callable[[int], None]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Each of these parts with its table, in order. on_listed: told of so many more users who have their lists."""
        maker, table = ListMaker(self.arm, self.top_n), ListTable(self.arm.release)
        batches = maker.lists(self._batches(parts, maker.batch_size))
        for part in parts:
            users, lists = self.users_of(part), list[UserList]()
            # no batch is of two parts
            while len(lists) < len(users):
                lists += (batch := next(batches))
                on_listed(len(batch))
            yield part, table.frame(self.histories.user_ids(users), lists)

    def _batches(self, parts: Sequence[int], size: int) -> Iterator[list[User]]:
        """Batches of the users of these parts, none of two parts."""
        for part in parts:
            users = iter(self.histories.of_users(self.users_of(part)))
            while batch := list(islice(users, size)):
                yield batch


def check_users(histories: UserHistories, source: Path) -> None:
    """Raises FolderRefused for a data set without users."""
    if not len(histories):
        raise FolderRefused(f"{source} has no users")
