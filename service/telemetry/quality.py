"""Quality while answers are given: coverage of the catalogue and overlap of the arms.

Cheap enough for every request or sampled; read at scrape time (service/telemetry/collectors.py). Changes no answer.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

WINDOW_S = 3600.0
SAMPLE_ANSWERS = 1000  # one of so many requests is put to the other arms too


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
