"""The integer matrix that goes to the device, and the buffer that comes back: one copy each way.

A row of the matrix is a user: length, user, place of its tokens (kernels/packed.py), limit, how many of its own items
are excluded (all or none), how many others, then the history and those others.
Columns behind a count are never read, so a matrix is filled again without being cleared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.columns import Columns, Integers
from model.kernels.packed import LENGTH, START, TOTAL, USER

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
    # START, items, and places for what will be generated: then the next user's START
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
