"""The best of scores that are all computed: ties in row order, rows left out by user and by filter.

In C where that was built (model/native), else in NumPy.
"""

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions
from index.checks import empty_hits
from model.native.loops import LOADED

Best = tuple[NDArray[np.int64], NDArray[np.float32]]  # (Q, K) rows and scores
NONE = np.empty(0, dtype=np.int64)
SELECTED = 1 << 22  # scores that are selected from at once: NumPy writes 8 bytes for each


def best_on_cpu(
    scores: NDArray[np.float32],
    limit: int,
    excluded: Exclusions | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> Best:
    """(Q, K) rows and scores, best first, ties in row order; scores (Q, N), overwritten where not permitted; K <= N.

    NumPy's selection uses AVX-512 where there is some: a third of the time of torch's. The loop in C takes a fourth.
    """
    are_all = allowed is None or bool(allowed.all())
    if LOADED.loops is not None and are_all:
        rows = np.empty((len(scores), limit), dtype=np.int64)
        values = np.empty((len(scores), limit), dtype=np.float32)
        queries, hidden = excluded or (NONE, NONE)
        LOADED.loops.best(scores, np.ascontiguousarray(queries), np.ascontiguousarray(hidden), rows, values)
        return rows, values
    if excluded is not None:
        scores[excluded.queries, excluded.rows - 1] = -np.inf
    if allowed is not None and not are_all:
        return _best_of_passing(scores, limit, np.flatnonzero(allowed))
    together = max(SELECTED // max(scores.shape[1], 1), 1)
    parts = [_best_of(scores[start : start + together], limit) for start in range(0, len(scores), together)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([values for _, values in parts])


def _best_of_passing(scores: NDArray[np.float32], limit: int, places: NDArray[np.int64]) -> Best:
    """The same of the scores at `places` alone: a selection among many equal ones, such as -inf, takes far longer."""
    hits = empty_hits(len(scores), limit)
    real = min(limit, len(places))
    if real:
        rows, hits.scores[:, :real] = best_on_cpu(scores.take(places, axis=1), real)
        hits.rows[:, :real] = places[rows - 1] + 1
    return hits


def _best_of(scores: NDArray[np.float32], limit: int) -> Best:
    queries, num_items = np.arange(len(scores))[:, None], scores.shape[1]
    # one more shows a tie at the cut
    kept = min(limit + 1, num_items)
    # in row order, which a stable sort keeps within a tie
    places = np.sort(np.argpartition(scores, num_items - kept, axis=1)[:, num_items - kept :], axis=1)
    values = scores[queries, places]
    order = np.argsort(-values, axis=1, kind="stable")
    places, values = places[queries, order], values[queries, order]
    if limit < num_items:
        # selection takes any of the items that tie at the cut; rare, so one query at a time will do
        last, following = values[:, limit - 1], values[:, limit]
        for query in np.flatnonzero((last == following) & (last > -np.inf)).tolist():
            tied = np.flatnonzero(scores[query] >= values[query, limit])
            first = np.lexsort((tied, -scores[query, tied]))[:limit]
            places[query, :limit] = tied[first]
    return places[:, :limit] + 1, values[:, :limit]
