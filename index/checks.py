"""What every index checks and fills the same way: the limits of a search, and hits padded with row 0."""

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions, Hits


def check_items(vectors: NDArray[np.float32]) -> None:
    """Raises ValueError unless `vectors` are (N, D) float32 with N, D >= 1."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or 0 in vectors.shape:
        raise ValueError(f"item vectors must be (N, D) float32 and not empty, not {vectors.shape} {vectors.dtype}")


def check_search(vectors: NDArray[np.float32], k: int, dim: int) -> None:
    """Raises ValueError for queries that are not (Q, dim) float32, or k < 1."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or vectors.shape[1] != dim:
        raise ValueError(f"queries must be (Q, {dim}) float32, not {vectors.shape} {vectors.dtype}")
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")


def empty_hits(num_queries: int, k: int) -> Hits:
    """Hits that found nothing: row 0 with score -inf, to be filled from the left."""
    shape = (num_queries, k)
    return Hits(np.zeros(shape, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32))


def without_barred(hits: Hits, barred: Exclusions, k: int) -> Hits:
    """The first k of each query's hits that are not barred from it; hits (Q, K') with K' >= k."""
    num_queries = len(hits.rows)
    bound = int(max(hits.rows.max(initial=0), barred.rows.max(initial=0))) + 1
    pairs = np.arange(num_queries)[:, None] * bound + hits.rows
    bad = np.isin(pairs, barred.queries * bound + barred.rows) | (hits.rows == 0)
    # a stable sort keeps the order of what stays
    order = np.argsort(bad, axis=1, kind="stable")[:, :k]
    kept = empty_hits(num_queries, k)
    stays = ~np.take_along_axis(bad, order, 1)
    kept.rows[:, : order.shape[1]][stays] = np.take_along_axis(hits.rows, order, 1)[stays]
    kept.scores[:, : order.shape[1]][stays] = np.take_along_axis(hits.scores, order, 1)[stays]
    return kept
