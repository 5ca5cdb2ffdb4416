"""An approximate index that is compared with exact search now and then, while it answers."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions, Hits, ItemIndex, OuterIndex
from index.evaluate import recall_of

SAMPLE_BATCHES = 500  # one query of so many batches is searched exactly too


@dataclass
class Mean:
    """A running mean that forgets: of about the last `memory` values."""

    memory: int = 200
    count: int = 0
    value: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) / min(self.count, self.memory)


class WatchedIndex(OuterIndex):
    """An approximate index whose answers are compared with exact search now and then: `recall` is what it finds.

    The exact search runs on the searching thread, for one query of every `SAMPLE_BATCHES` batches.
    """

    def __init__(self, index: ItemIndex, exact: ItemIndex, every: int = SAMPLE_BATCHES) -> None:
        super().__init__(index)
        self._exact, self._every = exact, every
        self._turn = itertools.count(1)
        self.recall = Mean()

    def search(
        self,
        queries: NDArray[np.float32],
        limit: int,
        excluded: Exclusions | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Hits:
        hits = self.inner.search(queries, limit, excluded, allowed)
        if next(self._turn) % self._every == 0 and len(queries):
            own = excluded.within(slice(0, 1)) if excluded else None
            expected = self._exact.search(queries[:1], limit, own, allowed).rows
            # with all items filtered out or excluded there is nothing to find, and no share of it
            if expected.any():
                self.recall.add(recall_of(hits.rows[:1], expected))
        return hits
