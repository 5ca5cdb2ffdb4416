"""The integer matrix that goes to the device, and the buffer that comes back: one copy each way.

A row of the matrix is a user: length, user, place of its tokens (kernels/packed.py), limit, how many of its own items
are excluded (all or none), how many others, then the history and those others.
Columns behind a count are never read, so a matrix is filled again without being cleared.
"""

import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.kernels.packed import LENGTH, START, TOTAL, USER
from model.records import History

Integers = NDArray[np.int32]
LIMIT, OWN, COUNT, ROWS = range(4, 8)  # columns behind those of `packed`; ROWS is the first of the history


@dataclass(frozen=True)
class Layout:
    """Columns of the matrix."""

    max_length: int  # L
    max_excluded: int  # E
    num_items: int
    num_users: int
    slots: int = 1  # tokens of a user beside its items: START, and those that are generated

    @property
    def excluded_at(self) -> int:
        return ROWS + self.max_length

    @property
    def width(self) -> int:
        return self.excluded_at + self.max_excluded


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


def fill(matrix: Integers, layout: Layout, columns: Columns) -> None:
    """Writes B users into the first rows of a matrix; the others become empty histories that want nothing.

    Raises ValueError for a row or user outside the catalogue.
    """
    columns = columns.newest(layout.max_length)
    for rows in (columns.items, columns.others):
        if len(rows) and not 1 <= rows.min() <= rows.max() <= layout.num_items:
            raise ValueError(f"an item row lies outside 1..{layout.num_items}")
    users, lengths = columns.users, columns.lengths
    if len(users) and not 0 <= users.min() <= users.max() <= layout.num_users:
        raise ValueError(f"a user row lies outside 0..{layout.num_users}")
    given = matrix[: columns.size]
    matrix[columns.size :, :ROWS] = 0
    given[:, LENGTH], given[:, USER], given[:, LIMIT] = lengths, users, columns.limits
    given[:, OWN], given[:, COUNT] = lengths * columns.own, columns.other_lengths
    _put(given[:, ROWS : layout.excluded_at], columns.items, lengths)
    _put(given[:, layout.excluded_at :], columns.others, columns.other_lengths)
    ends = np.cumsum(matrix[:, LENGTH] + layout.slots)
    matrix[:, START], matrix[:, TOTAL] = ends - matrix[:, LENGTH] - layout.slots, ends[-1]


def _put(columns: Integers, flat: Integers, lengths: Integers) -> None:
    """Writes lists into the rows of `columns` from the left."""
    if len(flat):
        columns[np.arange(columns.shape[1], dtype=np.int32) < lengths[:, None]] = flat


class Answers(NamedTuple):
    """Lists and vectors of B users; NumPy arrays or tensors over one buffer."""

    rows: NDArray[np.int64]  # (B, L) item rows, 0 behind the end
    prompts: NDArray[np.int64]  # (B, P) generated item rows
    scores: NDArray[np.float32]  # (B, L)
    vectors: NDArray[np.float32]  # (B, Q, D)
    sources: NDArray[np.int32]  # (B, L) number of the query vector
    doubtful: NDArray[np.int32]  # (B,) not 0: the general path has to answer

    def part(self, users: slice) -> "Answers":
        """A view of some users' answers."""
        rows, prompts, scores, vectors, sources, doubtful = self
        return Answers(rows[users], prompts[users], scores[users], vectors[users], sources[users], doubtful[users])

    def equals(self, other: "Answers") -> bool:
        """Tells if all is the same to the last bit."""
        pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]] = zip(self, other, strict=True)
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)
