"""The integer matrix that goes to the device, and the buffer that comes back: one copy each way.

A row of the matrix is a user: length, user, place of its tokens (kernels/packed.py), limit, how many of its own items
are excluded (all or none), how many others, then the history and those others.
Columns behind a count are never read, so a matrix is filled again without being cleared.
"""

import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.kernels.packed import LENGTH, START, TOTAL, USER
from model.records import History

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
    """Requests of B users, in columns."""

    histories: Sequence[History]
    limits: Sequence[int]
    excluded: Sequence[Collection[int]]

    def part(self, users: slice) -> "Columns":
        return Columns(self.histories[users], self.limits[users], self.excluded[users])


def fill(matrix: NDArray[np.int32], layout: Layout, columns: Columns) -> None:
    """Writes B users into the first rows of a matrix; the others become empty histories that want nothing.

    Raises ValueError for a row or user outside the catalogue.
    """
    num_users, length = len(columns.histories), layout.max_length
    matrix[num_users:, :ROWS] = 0
    own = matrix[:num_users]
    items = [history.items[-length:] for history in columns.histories]
    lengths = own[:, LENGTH] = _put(own[:, ROWS : layout.excluded_at], items, layout.num_items)
    # mostly what is excluded is the history itself, the same object: it is not read again
    whole = [given is kept for given, kept in zip(columns.excluded, items, strict=True)]
    own[:, OWN] = lengths * np.array(whole, dtype=np.int64)
    others = [() if same else given for same, given in zip(whole, columns.excluded, strict=True)]
    own[:, COUNT] = _put(own[:, layout.excluded_at :], others, layout.num_items)
    own[:, LIMIT] = columns.limits
    ends = np.cumsum(matrix[:, LENGTH] + layout.slots)
    matrix[:, START], matrix[:, TOTAL] = ends - matrix[:, LENGTH] - layout.slots, ends[-1]
    users = np.fromiter((history.user for history in columns.histories), np.int64, num_users)
    if num_users and not 0 <= users.min() <= users.max() <= layout.num_users:
        raise ValueError(f"a user row lies outside 0..{layout.num_users}")
    own[:, USER] = users


def _put(columns: NDArray[np.int32], lists: Sequence[Collection[int]], num_items: int) -> NDArray[np.int64]:
    """Writes lists into the rows of `columns` from the left; returns their lengths."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    total = int(lengths.sum())
    if not total:
        return lengths
    try:
        # half the time of np.array
        flat = np.frombuffer(struct.pack(f"{total}i", *chain.from_iterable(lists)), dtype=np.int32)
    except struct.error:
        flat = np.zeros(1, dtype=np.int32)
    if not 1 <= flat.min() <= flat.max() <= num_items:
        raise ValueError(f"an item row lies outside 1..{num_items}")
    columns[np.arange(columns.shape[1]) < lengths[:, None]] = flat
    return lengths


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

    def first(self, count: int) -> "Answers":
        """A copy of the first users' answers; the buffer is written again."""
        own = self.part(slice(count))
        return Answers(
            own.rows.copy(),
            own.prompts.copy(),
            own.scores.copy(),
            own.vectors.copy(),
            own.sources.copy(),
            own.doubtful.copy(),
        )

    def equals(self, other: "Answers") -> bool:
        """Tells if all is the same to the last bit."""
        pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]] = zip(self, other, strict=True)
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)
