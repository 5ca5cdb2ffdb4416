"""Measures an index: recall against exact search, microseconds a query, bytes.

`Probes` is the one way to do it: the choice of an index, the checks of a bundle and the benchmarks all call it.
"""

from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.base import ItemIndex


class SizedIndex(ItemIndex, Protocol):
    """An index that knows its size; all of ours do."""

    @property
    def num_bytes(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Probes:
    """Queries and their exact hits, which an index is measured against."""

    queries: NDArray[np.float32]  # (Q, D)
    expected: NDArray[np.int64]  # (Q, K) rows, best first

    @classmethod
    def of(cls, exact: ItemIndex, queries: NDArray[np.float32], limit: int) -> "Probes":
        """Searches the `limit` hits of each query with the exact index over the same items."""
        return cls(queries, exact.search(queries, limit).rows)

    def recall(self, index: ItemIndex) -> float:
        """Recall@K of the index, K being the width of `expected`."""
        return recall_of(index.search(self.queries, self.expected.shape[1]).rows, self.expected)

    def query_us(self, index: ItemIndex, batch: int | None = None, num_runs: int = 5) -> float:
        """Median microseconds a query of calls with the first `batch` queries (None = all of them)."""
        return time_search(index, self.queries[:batch], self.expected.shape[1], num_runs)


def recall_of(rows: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    """Share of the expected rows that were found, averaged over queries; row 0 never counts.

    Both (Q, K); K may differ. Raises ValueError for different Q or a query that expects nothing.
    """
    if len(rows) != len(expected):
        raise ValueError(f"{len(rows)} queries were answered but {len(expected)} expected")
    shares = []
    for have, want in zip(rows.tolist(), expected.tolist(), strict=True):
        wanted = set(want) - {0}
        if not wanted:
            raise ValueError("a query expects no hits")
        shares.append(len(wanted.intersection(have)) / len(wanted))
    return float(np.mean(shares))


def time_search(index: ItemIndex, queries: NDArray[np.float32], limit: int, num_runs: int = 5) -> float:
    """Median microseconds a query over `num_runs` calls with all queries, after one call that is not counted."""
    # the first call pays for threads, caches and, on a GPU, for compiling
    index.search(queries, limit)
    return median(_seconds(index, queries, limit) for _ in range(num_runs)) / len(queries) * 1e6


def _seconds(index: ItemIndex, queries: NDArray[np.float32], limit: int) -> float:
    start = perf_counter()
    index.search(queries, limit)
    return perf_counter() - start
