"""Checks and fills that every index shares: the limits of a search, and hits padded with row 0."""

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions, Hits


def check_items(vectors: NDArray[np.float32]) -> None:
    """Raises ValueError unless `vectors` are (N, D) float32 with N, D >= 1."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or 0 in vectors.shape:
        raise ValueError(f"item vectors must be (N, D) float32 and not empty, not {vectors.shape} {vectors.dtype}")


def check_search(queries: NDArray[np.float32], limit: int, dim: int) -> None:
    """Raises ValueError for queries that are not (Q, dim) float32, or limit < 1."""
    if queries.ndim != 2 or queries.dtype != np.float32 or queries.shape[1] != dim:
        raise ValueError(f"queries must be (Q, {dim}) float32, not {queries.shape} {queries.dtype}")
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")


def check_allowed(allowed: NDArray[np.bool_] | None, num_items: int) -> None:
    """Raises ValueError for a filter that is not one boolean an item."""
    if allowed is not None and (allowed.shape != (num_items,) or allowed.dtype != np.bool_):
        raise ValueError(f"allowed must be ({num_items},) bool, not {allowed.shape} {allowed.dtype}")


def empty_hits(num_queries: int, limit: int) -> Hits:
    """Hits that found nothing: row 0 with score -inf, to be filled from the left."""
    shape = (num_queries, limit)
    return Hits(np.zeros(shape, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32))


def first_permitted(
    hits: Hits, limit: int, excluded: Exclusions | None = None, allowed: NDArray[np.bool_] | None = None
) -> Hits:
    """The first `limit` of each query's hits (Q, K') that it may find; K' >= limit."""
    hidden = hits.rows == 0
    if allowed is not None:
        hidden |= ~np.append(False, allowed)[hits.rows]
    if excluded is not None:
        bound = int(max(hits.rows.max(initial=0), excluded.rows.max(initial=0))) + 1
        pairs = np.arange(len(hits.rows))[:, None] * bound + hits.rows
        hidden |= np.isin(pairs, excluded.queries * bound + excluded.rows)
    # a stable sort keeps the order of what stays
    order = np.argsort(hidden, axis=1, kind="stable")[:, :limit]
    kept = empty_hits(len(hits.rows), limit)
    stays = ~np.take_along_axis(hidden, order, 1)
    kept.rows[:, : order.shape[1]][stays] = np.take_along_axis(hits.rows, order, 1)[stays]
    kept.scores[:, : order.shape[1]][stays] = np.take_along_axis(hits.scores, order, 1)[stays]
    return kept
