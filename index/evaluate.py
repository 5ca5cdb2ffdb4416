"""How good and how fast an index is: recall against exact search, microseconds a query, bytes."""

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


@dataclass(frozen=True, slots=True)
class IndexReport:
    """One index measured on one set of queries."""

    spec: str
    k: int
    recall: float  # recall@k against exact search
    query_us: float  # median microseconds a query, all queries in one call
    num_bytes: int


def recall_of(found: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    """Share of the expected rows that were found, averaged over queries; row 0 never counts.

    Both (Q, K); K may differ. Raises ValueError for different Q or a query that expects nothing.
    """
    if len(found) != len(expected):
        raise ValueError(f"{len(found)} queries were answered but {len(expected)} expected")
    shares = []
    for have, want in zip(found.tolist(), expected.tolist(), strict=True):
        wanted = set(want) - {0}
        if not wanted:
            raise ValueError("a query expects no hits")
        shares.append(len(wanted.intersection(have)) / len(wanted))
    return float(np.mean(shares))


def time_search(index: ItemIndex, queries: NDArray[np.float32], k: int, num_runs: int = 5) -> float:
    """Median microseconds a query over `num_runs` calls with all queries, after one call that is not counted."""
    # the first call pays for threads, caches and, on a GPU, for compiling
    index.search(queries, k)
    return median(_seconds(index, queries, k) for _ in range(num_runs)) / len(queries) * 1e6


def measure_index(index: SizedIndex, exact: ItemIndex, queries: NDArray[np.float32], k: int) -> IndexReport:
    """queries: (Q, D), Q >= 1. `exact` is the oracle over the same items."""
    recall = recall_of(index.search(queries, k).rows, exact.search(queries, k).rows)
    return IndexReport(index.spec, k, recall, time_search(index, queries, k), index.num_bytes)


def _seconds(index: ItemIndex, queries: NDArray[np.float32], k: int) -> float:
    start = perf_counter()
    index.search(queries, k)
    return perf_counter() - start
