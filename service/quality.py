"""What the answers are like while they are given: coverage of the catalogue, overlap of the arms, recall of the index.

Cheap enough for every request or sampled; read at scrape time (service/telemetry.py). Nothing here changes an answer.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index.base import Barred, Hits, ItemIndex
from index.evaluate import recall_of

WINDOW_S = 3600.0
SAMPLE_BATCHES = 500  # one query of so many batches is searched exactly too
SAMPLE_ANSWERS = 1000  # one of so many requests is put to the other arms too


@dataclass
class Mean:
    """A running mean that forgets: of about the last `memory` values."""

    memory: int = 200
    count: int = 0
    value: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) / min(self.count, self.memory)


@dataclass
class Coverage:
    """The share of the catalogue that was in some answer of the last hour or two."""

    num_items: int
    clock: Callable[[], float] = time.monotonic
    _shown: list[NDArray[np.bool_]] = field(default_factory=list)  # this window and the one before
    _since: float = 0.0

    def add(self, rows: NDArray[np.int64]) -> None:
        """rows 1 .. N of one answer."""
        now = self.clock()
        if not self._shown or now - self._since >= WINDOW_S:
            self._shown, self._since = [np.zeros(self.num_items, dtype=np.bool_), *self._shown[:1]], now
        self._shown[0][rows - 1] = True

    @property
    def share(self) -> float:
        return float(np.logical_or.reduce(self._shown).mean()) if self._shown else 0.0


def overlap(lists: Sequence[NDArray[np.int64]]) -> float:
    """Mean share of items that two lists have in common, over all pairs; lists of one length."""
    pairs = list(itertools.combinations(lists, 2))
    shares = [len(np.intersect1d(one, other)) / max(len(one), len(other), 1) for one, other in pairs]
    return float(np.mean(shares)) if shares else 1.0


class WatchedIndex:
    """An approximate index whose answers are compared with exact search now and then: `recall` is what it finds.

    The exact search runs on the searching thread, for one query of every `SAMPLE_BATCHES` batches.
    """

    def __init__(self, index: ItemIndex, exact: ItemIndex, every: int = SAMPLE_BATCHES) -> None:
        self.inner, self._exact, self._every = index, exact, every
        self._turn = itertools.count(1)
        self.recall = Mean()

    @property
    def spec(self) -> str:
        return self.inner.spec

    @property
    def num_items(self) -> int:
        return self.inner.num_items

    @property
    def dim(self) -> int:
        return self.inner.dim

    def search(self, vectors: NDArray[np.float32], k: int, barred: Barred | None = None) -> Hits:
        hits = self.inner.search(vectors, k, barred)
        if next(self._turn) % self._every == 0 and len(vectors):
            own = barred.within(slice(0, 1)) if barred else None
            expected = self._exact.search(vectors[:1], k, own).rows
            if expected.any():
                self.recall.add(recall_of(hits.rows[:1], expected))
        return hits
