"""The contract of every item index, the records it speaks in, and what those share that stand before another one.

Higher scores are better, everywhere.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

EXACT = "exact"  # the spec of exact search: named here, so that a manifest is read without torch


class Hits(NamedTuple):
    """Neighbours of Q queries, best first in each row."""

    rows: NDArray[np.int64]  # (Q, K) item rows 1..N; 0 = the index had no more to give
    scores: NDArray[np.float32]  # (Q, K) inner products; -inf where the row is 0


class Exclusions(NamedTuple):
    """Items that a query may not find, as pairs of the query's number and an item row, sorted by query."""

    queries: NDArray[np.int64]  # (E,) 0 .. Q-1
    rows: NDArray[np.int64]  # (E,) 1 .. N

    @property
    def most(self) -> int:
        """The largest number of items that a single query excludes."""
        return int(np.bincount(self.queries).max(initial=0))

    def up_to(self, num_rows: int) -> "Exclusions":
        """The pairs of rows 1 .. num_rows."""
        inside = self.rows <= num_rows
        return self if inside.all() else Exclusions(self.queries[inside], self.rows[inside])

    def within(self, part: slice) -> "Exclusions":
        """The pairs of a run of queries, counted from its start."""
        first, last = np.searchsorted(self.queries, (part.start, part.stop))
        return Exclusions(self.queries[first:last] - part.start, self.rows[first:last])


class ItemIndex(Protocol):
    """Maximum inner product search over item vectors of rows 1..N; thread-safe, never changed after building."""

    @property
    def spec(self) -> str:
        """How it was built: "exact" or a FAISS factory string; stands in the manifest."""

    @property
    def num_items(self) -> int:
        """N."""

    @property
    def dim(self) -> int:
        """D."""

    def search(
        self,
        queries: NDArray[np.float32],
        limit: int,
        excluded: Exclusions | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Finds for each query the `limit` items of highest inner product among those that it may find.

        queries: (Q, D), C-contiguous, finite. limit >= 1; at most N rows are real, the rest is row 0 with score -inf.
        excluded: a few items of single queries, such as what a user has seen. allowed: (N,) true at place r - 1 where
        row r may be found by any of the queries, such as what a filter lets through; None = every row.
        Scores do not increase along a row; no item stands twice in a row. Changes none of its arguments.
        Raises ValueError for a wrong width, limit < 1, or an `allowed` that is not N booleans.
        """


class OuterIndex:
    """An index before another: named and sized like the inner one."""

    def __init__(self, inner: ItemIndex) -> None:
        self.inner = inner

    @property
    def spec(self) -> str:
        return self.inner.spec

    @property
    def num_items(self) -> int:
        return self.inner.num_items

    @property
    def dim(self) -> int:
        return self.inner.dim
