"""Ranking metrics over recommended lists, tested against fractions worked out by hand.

recall@k: share of a user's targets among the first k. hr@k: share of users with any. precision@k: share of the k that
are targets. ndcg@k: sum of 1 / log2(rank + 1) over hits, divided by its highest possible value. Each is the mean over
users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAMES = ("recall", "hr", "precision", "ndcg")


@dataclass(frozen=True)
class Relevance:
    """The places of each list that hit a target."""

    hits: NDArray[np.bool_]  # (U, K)
    num_targets: NDArray[np.int64]  # (U,) all >= 1

    @classmethod
    def of(cls, lists: NDArray[np.int64], targets: Sequence[NDArray[np.int32]]) -> "Relevance":
        """lists (U, K) item rows, 0 = empty place; targets: item rows of each user, repeats count once."""
        unique = [np.unique(t) for t in targets]
        hits = np.stack([np.isin(row, wanted) & (row > 0) for row, wanted in zip(lists, unique, strict=True)])
        return cls(hits, np.array([len(t) for t in unique]))


def ranking_metrics(relevance: Relevance, cutoffs: Sequence[int]) -> dict[str, float]:
    """{"recall@10": .., "hr@10": .., ...} for each cutoff; lists shorter than a cutoff count as padded with misses."""
    table: dict[str, float] = {}
    for k in cutoffs:
        hits = relevance.hits[:, :k]
        counts = hits.sum(1)
        per_user = (counts / relevance.num_targets, counts > 0, counts / k, _ndcg(hits, relevance.num_targets, k))
        table |= {f"{name}@{k}": float(np.mean(values)) for name, values in zip(NAMES, per_user, strict=True)}
    return table


def _ndcg(hits: NDArray[np.bool_], num_targets: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    discounts = 1 / np.log2(np.arange(2, k + 2))
    # the best possible list has all targets first, or k of them
    ideal = np.cumsum(discounts)[np.minimum(num_targets, k) - 1]
    gained: NDArray[np.float64] = (hits @ discounts[: hits.shape[1]]) / ideal
    return gained
