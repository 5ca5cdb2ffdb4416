"""Requests of many users as columns: what travels between processes and to a device without an object a user."""

import struct
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.records import History

Integers = NDArray[np.int32]


class Columns(NamedTuple):
    """Requests of B users; their lists lie behind one another. The arrays may be views of bytes, hence read-only."""

    items: Integers  # (T,) item rows of the histories, each oldest to newest
    lengths: Integers  # (B,)
    users: Integers  # (B,) user rows, 0 = unknown
    limits: Integers  # (B,) lengths of the lists
    own: NDArray[np.bool_]  # (B,) the items of the history may not appear
    others: Integers  # (E,) further items that may not appear
    other_lengths: Integers  # (B,)

    @classmethod
    def of(cls, histories: Sequence[History], limits: Sequence[int], excluded: Sequence[Collection[int]]) -> "Columns":
        """From records. Mostly what is excluded is the history itself, the same object: it is not read again."""
        own = [given is history.items for given, history in zip(excluded, histories, strict=True)]
        others = [() if same else given for same, given in zip(own, excluded, strict=True)]
        return cls.beside(histories, limits, others)._replace(own=np.array(own, dtype=np.bool_))

    @classmethod
    def beside(
        cls, histories: Sequence[History], limits: Sequence[int], others: Sequence[Collection[int]]
    ) -> "Columns":
        """From records, where all histories may not appear, and `others` beside them."""
        items = [history.items for history in histories]
        return cls(
            _integers(chain.from_iterable(items)),
            _integers(map(len, items)),
            _integers(history.user for history in histories),
            _integers(limits),
            np.ones(len(items), dtype=np.bool_),
            _integers(chain.from_iterable(others)),
            _integers(map(len, others)),
        )

    @classmethod
    def join(cls, parts: Sequence["Columns"]) -> "Columns":
        """The users of all parts, in order."""
        return parts[0] if len(parts) == 1 else cls(*map(np.concatenate, zip(*parts, strict=True)))

    @property
    def size(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def num_excluded(self) -> Integers:
        """(B,) items that may not appear, at most: some may be named twice."""
        return self.lengths * self.own + self.other_lengths

    def part(self, users: slice) -> "Columns":
        """A run of users: views."""
        first, stop, _ = users.indices(self.size)
        items, others = (_run(lengths, first, stop) for lengths in (self.lengths, self.other_lengths))
        lengths, rows, limits, own = self.lengths[users], self.users[users], self.limits[users], self.own[users]
        return Columns(self.items[items], lengths, rows, limits, own, self.others[others], self.other_lengths[users])

    def take(self, places: Sequence[int]) -> "Columns":
        """The users at some places."""
        return Columns.join([self.part(slice(place, place + 1)) for place in places])

    def records(self) -> list[tuple[History, int, Collection[int]]]:
        """History, limit and excluded items of each user, as `of` takes them: the history's own, where it is those."""
        rows, others = _split(self.items, self.lengths), _split(self.others, self.other_lengths)
        histories = map(History, rows, self.users.tolist())
        users = zip(histories, self.limits.tolist(), self.own.tolist(), others, strict=True)
        return [(h, limit, _excluded(h.items, more) if own else more) for h, limit, own, more in users]

    def newest(self, length: int) -> "Columns":
        """The same with histories of at most `length` items; what is cut off stays excluded."""
        if not self.size or self.lengths.max() <= length:
            return self
        whole = self.records()
        histories = [History(history.items[-length:], history.user) for history, _, _ in whole]
        return Columns.of(histories, self.limits.tolist(), [excluded for _, _, excluded in whole])


def _run(lengths: Integers, first: int, stop: int) -> slice:
    """The places of the lists of users first .. stop - 1."""
    start = int(lengths[:first].sum())
    return slice(start, start + int(lengths[first:stop].sum()))


def _split(flat: Integers, lengths: Integers) -> list[tuple[int, ...]]:
    rows, ends = flat.tolist(), np.cumsum(lengths).tolist()
    return [tuple(rows[end - length : end]) for length, end in zip(lengths.tolist(), ends, strict=True)]


def _excluded(items: tuple[int, ...], others: tuple[int, ...]) -> Collection[int]:
    return frozenset(items).union(others) if others else items


def _integers(numbers: Iterable[int]) -> Integers:
    """Numbers that 32 bits do not hold become -1, which is no row and no user."""
    listed = [*numbers]
    try:
        # half the time of np.array
        return np.frombuffer(struct.pack(f"{len(listed)}i", *listed), dtype=np.int32)
    except struct.error:
        return np.array([number if abs(number) < 2**31 else -1 for number in listed], dtype=np.int32)
