"""Maximal marginal relevance: items that are relevant and unlike those taken before (Carbonell and Goldstein, 1998).

Items that are taken make others worth less, never more. So the best of the first hits is the best of all as long as it
is worth as much as the most relevant of the rest, whose vectors are asked for only when it is not. What a hit is worth
is the least of what it is worth beside each item taken alone: a row of one matrix product, and one minimum an item.

That is the code in NumPy. The loop in C (model/native) looks at few hits the same way, block by block, and decides in
double precision between those that are worth nearly the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.native.loops import LOADED

Vectors = NDArray[np.float32]
Gather = Callable[[NDArray[np.int64]], Vectors]
SPARE, FARTHER = 1.28, 4  # hits that are compared at first, for each item wanted; times as many where those are too few
NOVEL = 0.4  # share from which on lists reach so deep that all hits are compared at once
AT_ONCE = 160  # hits that are all compared with all; of more, each item taken is compared with all
LAST = np.finfo(np.float32).min  # worth less than any hit, but more than one that is gone


@dataclass(frozen=True, eq=False)
class Novelty:
    """P hits to choose from by relevance and novelty."""

    rows: NDArray[np.int64]  # (P,) item rows, P >= 1; those that stand first are compared first
    scores: Vectors  # (P,) finite
    share: float  # of novelty
    gather: Gather  # rows (K,) to vectors (K, D)

    @cached_property
    def relevance(self) -> Vectors:
        """(P,) 0 to 1 - share."""
        low, high, most = self.scores.min(), self.scores.max(), 1 - self.share
        # scores have no unit: stretched to 0 .. 1 they can be weighed against a likeness, which ends at 1
        return (self.scores - low) * (most / (high - low)) if high > low else np.full_like(self.scores, most)

    def choose(self, limit: int, before: Sequence[int], take: Callable[[int], bool] | None = None) -> list[int]:
        """Places 0 .. P-1 of `limit` hits, the best first; fewer where no more may be taken.

        before: rows that were taken already. take: takes a place, or tells that it may not be; None = any may be.
        """
        if LOADED.loops is None:
            return self._choose_in_numpy(limit, before, take)
        vectors = self.gather(self.rows)
        earlier = self.gather(np.array(before)) if before else vectors[:0]
        return LOADED.loops.most_novel(self.scores, vectors, earlier, self.share, limit, take)

    def _choose_in_numpy(
        self, limit: int, before: Sequence[int], take: Callable[[int], bool] | None = None
    ) -> list[int]:
        taken, passed_over = list[int](), list[int]()
        size = int(SPARE * limit) if self.share < NOVEL else len(self.rows)
        while len(taken) < limit and len(taken) + len(passed_over) < len(self.rows):
            size = min(size, len(self.rows))
            total, beside = self._compared(size, [*before, *self.rows[taken].tolist()])
            total[taken + passed_over] = -np.inf
            worth = total[:size]
            # place `size` stands for all that were not compared: where it is highest, more have to be looked at
            while len(taken) < limit and (best := int(total.argmax())) != size:
                total[best] = -np.inf
                if take is None or take(best):
                    taken.append(best)
                    # the least over all items taken, so one comparison with the newest is enough
                    np.minimum(worth, beside(best), out=worth)
                else:
                    passed_over.append(best)
            size *= FARTHER
        return taken

    def _compared(self, size: int, taken: Sequence[int]) -> tuple[Vectors, Callable[[int], Vectors]]:
        """(C + 1,) what the first C hits are worth beside the rows taken, at last the most that any other can be worth.

        And a function to (C,) what they are worth beside a hit alone.
        """
        own = _unit(self.gather(self.rows[:size]))
        # one product for relevance - share * likeness
        pairs = np.concatenate([own, np.ones((size, 1), dtype=np.float32)], 1)  # (C, D + 1)
        matrix = np.empty((pairs.shape[1], size), dtype=np.float32)  # (D + 1, C)
        np.multiply(own.T, -self.share, out=matrix[:-1])
        matrix[-1] = self.relevance[:size]
        total = np.append(matrix[-1], self.relevance[size:].max(initial=LAST))
        if taken:
            likeness = _unit(self.gather(np.array(taken))) @ matrix[:-1]  # (T, C), times -share
            # a hit that is like none of them loses nothing and gains nothing
            total[:size] += np.minimum(likeness.min(0), 0)
        if size <= AT_ONCE:
            worths: Vectors = pairs @ matrix  # (C, C)
            return total, lambda hit: worths[hit]
        alone = np.empty(size, dtype=np.float32)

        def beside(hit: int) -> Vectors:
            np.dot(pairs[hit], matrix, out=alone)
            return alone

        return total, beside


def _unit(vectors: Vectors) -> Vectors:
    """(K, D) the same of length 1."""
    lengths = np.sqrt(np.einsum("kd,kd->k", vectors, vectors))
    unit: Vectors = vectors / np.maximum(lengths, 1e-12)[:, None]
    return unit
