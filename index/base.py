"""The contract of every item index, and the record it answers with. Higher scores are better, everywhere."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Hits(NamedTuple):
    """Neighbours of Q queries, best first in each row."""

    rows: NDArray[np.int64]  # (Q, K) item rows 1..N; 0 = the index had no more to give
    scores: NDArray[np.float32]  # (Q, K) inner products; -inf where the row is 0


class Exclusions(NamedTuple):
    """Items that may not be found, as pairs of a query's number and an item row, sorted by query."""

    queries: NDArray[np.int64]  # (E,) 0 .. Q-1
    rows: NDArray[np.int64]  # (E,) 1 .. N

    def within(self, part: slice) -> "Exclusions":
        """Those of a run of queries, counted from its start."""
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

    def search(self, vectors: NDArray[np.float32], k: int, barred: Exclusions | None = None) -> Hits:
        """The k items of highest inner product for each query, without those that are barred from it.

        vectors: (Q, D), C-contiguous, finite. k >= 1; at most N rows are real, the rest is row 0 with score
        -inf.
        Scores do not increase along a row; no item stands twice in a row. Does not change `vectors`.
        Raises ValueError for a wrong width or k < 1.
        """


def first_rows(index: ItemIndex, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """(Q,) row of the best item of each vector; 0 where the index found none."""
    return index.search(vectors, 1).rows[:, 0]
