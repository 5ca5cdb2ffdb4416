"""The vector of an item that training never saw, from what its attributes say and who watched it first.

The network is frozen, and the vector is what training would have made of one more row: the softmax of each reference
query gives the item its share, and all shares together are the watches that it is expected to get. Its watchers pull it
towards their queries, away from those of everybody; items that are trained say how far it may go
(docs/decisions/0073-vectors-of-new-items.md has the equations and what was measured).
"""

from dataclasses import dataclass
from functools import cached_property
from math import log

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
POPULAR = 3  # vectors of the most popular third say how vectors lie: those of rare items are mostly their start
USUAL = 0.75  # a new item is expected to be watched as often as this quantile of the bundle's items
WATCHER, LEVEL = 2.0, 30.0  # weights of a watcher, and of the expected watches, beside the prior
EXPOSURE = 1.4  # of the expected watches: a vector that is less sure scores less often among the best
STEPS, LONGEST = 10, 1.0  # of Newton's method, and how far one may go
CLOSE = 1e-9  # a step that a vector of single precision does not show
AT_ONCE = 64  # reference queries that are scored together


@dataclass(frozen=True, eq=False)
class Newcomers:
    """Trained items, as a prior of new ones, and the queries that those compete for."""

    queries: Vector  # (R, D) such as users ask
    sums: Vector  # (R,) log of the sum of exp(score) over all items
    mean: Vector  # (P, D) vector of an item by powers of log1p(count)
    covariance: Vector  # (D, D) about that mean
    precision: Vector  # its inverse
    level: Vector  # (P',) log of an item's mean share of the queries, by powers of log1p(count)
    seen: tuple[float, float]  # log1p of the least and the largest count that `mean` follows from
    usual: float  # count that is expected where nobody says

    @classmethod
    def of(cls, queries: NDArray[np.float32], vectors: NDArray[np.float32], counts: NDArray[np.int64]) -> "Newcomers":
        """queries: (R, D); vectors: (S, D) of items, most popular first, with their counts (S,)."""
        scores = [vectors @ queries[start : start + AT_ONCE].T for start in range(0, len(queries), AT_ONCE)]
        tops = [own.max(0) for own in scores]
        odds = [np.exp(own - top, dtype=np.float64) for own, top in zip(scores, tops, strict=True)]
        sums = [np.log(own.sum(0)) + top for own, top in zip(odds, tops, strict=True)]
        shares = sum((own / own.sum(0)).sum(1) for own in odds) / len(queries)
        often = np.log1p(counts.astype(np.float64))
        # an item that no reference query is near has a share of 0 in floating point
        # rare items say less: what they are scored by is mostly their start
        level = np.polyfit(often, np.log(np.maximum(shares, 1e-30)), _degree(often), w=np.sqrt(1.0 + counts))
        size = _num_popular(*vectors.shape)
        powers = np.vander(often[:size], _degree(often[:size]) + 1)
        mean = np.linalg.lstsq(powers, vectors[:size].astype(np.float64), rcond=None)[0]
        rest = vectors[:size] - powers @ mean
        covariance = rest.T @ rest / size
        covariance += np.eye(len(covariance)) * (1e-3 * np.trace(covariance) / len(covariance) + 1e-9)
        seen = float(often[:size].min()), float(often[:size].max())
        usual = float(np.quantile(counts, USUAL))
        inverse = np.linalg.inv(covariance)
        return cls(queries.astype(np.float64), np.concatenate(sums), mean, covariance, inverse, level, seen, usual)

    def typical(self, counts: NDArray[np.float64] | NDArray[np.int64]) -> Vector:
        """(C, D) the mean vectors of trained items that are watched so often."""
        typical: Vector = np.vander(np.clip(np.log1p(counts), *self.seen), len(self.mean)) @ self.mean
        return typical

    def popular(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows, most popular first, of which vectors say more than how they were started."""
        return rows[: _num_popular(len(rows), len(self.covariance))]

    def fit(self, described: Vector, count: float, watchers: Vector | None = None, num_watchers: int = 0) -> Vector:
        """(D,) the vector of an item that is expected to be watched `count` times.

        described: (D,) what its attributes add to the typical vector. watchers: (D,) mean of their query vectors.
        """
        prior = self.typical(np.array([count]))[0] + described
        level = float(np.polyval(self.level, min(np.log1p(EXPOSURE * count), self.seen[1])))
        vector = self._lifted(prior, level)
        if watchers is None or not num_watchers:
            return vector
        weight = WATCHER * num_watchers
        for _ in range(STEPS):
            share, pull, odds = self._share(vector)
            around = (self.queries * odds[:, None]).T @ self.queries - np.outer(pull, pull)
            slope = weight * (watchers - pull) + LEVEL * (level - share) * pull - self.precision @ (vector - prior)
            bend = weight * around + LEVEL * np.outer(pull, pull) + self.precision
            step = np.linalg.solve(bend, slope)
            vector = vector + step * min(1.0, LONGEST / max(float(np.linalg.norm(step)), 1e-12))
        return vector

    def _share(self, vector: Vector) -> tuple[float, Vector, Vector]:
        """The log of the mean share of a vector, its slope (D,), and each query's part of that (R,)."""
        own = 1 / (1 + np.exp(np.clip(self.sums - self.queries @ vector, -50, 50)))
        mean = float(own.mean())
        odds = own * (1 - own) / (mean * len(own))
        return float(np.log(mean)), odds @ self.queries, odds

    def _lifted(self, prior: Vector, level: float) -> Vector:
        """The prior's vector, moved as the prior moves most easily until it has its share; no watcher is asked."""
        along, gains = self._easiest
        behind, gone = self.sums - self.queries @ prior, 0.0
        for _ in range(STEPS):
            own = 1 / (1 + np.exp(np.clip(behind - gone * gains, -50, 50)))
            total = float(own.sum())
            slope = float((own - own * own) @ gains) / total
            if slope < 1e-9:
                break
            step = min(max((level - log(total / len(own))) / slope, -LONGEST), LONGEST)
            gone += step
            if abs(step) < CLOSE:
                break
        lifted: Vector = prior + gone * along
        return lifted

    @cached_property
    def _easiest(self) -> tuple[Vector, Vector]:
        """(D,) the direction in which priors move most easily, of length 1 or 0, and (R,) what a query gains by it."""
        along = self.covariance @ self.queries.mean(0)
        length = float(np.linalg.norm(along))
        along = along / length if length >= 1e-12 else np.zeros_like(along)
        return along, self.queries @ along


def _num_popular(num_items: int, dim: int) -> int:
    return min(num_items, max(num_items // POPULAR, 4 * dim))


def _degree(often: Vector) -> int:
    """The degree of a polynomial in so many different counts."""
    return min(2, len(np.unique(often)) - 1)
