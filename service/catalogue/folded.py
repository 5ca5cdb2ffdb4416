"""The slots that were there for a while, in an index of their own, so that a search need not score them all."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.catalogue.state import Flags

Vectors = NDArray[np.float32]
IndexT = TypeVar("IndexT")
FOLDED_AT, FOLDED_SHARE = 4096, 4  # slots behind those that are folded, and one for so many of those: then all are
Fold = Callable[[Vectors], IndexT]  # (F, D) to an index of them


class FoldedSlots(Generic[IndexT]):
    """Slots 0 .. F - 1 as they were when they were folded."""

    def __init__(self, vectors: Vectors, index: IndexT) -> None:
        """vectors: (F, D), in whose memory rows never change."""
        self.vectors, self.index = vectors, index
        # the memory that was compared last, and (F,) which of these slots are others there
        self._compared = vectors.base, np.zeros(len(vectors), dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.vectors)

    def stands_for(self, vectors: Vectors) -> "SlotTable[IndexT]":
        """The slots (M, D), M >= F, as they are now."""
        memory, moved = self._compared
        # rows in the same memory never change, so that each is compared once
        if vectors.base is None or vectors.base is not memory:
            moved = (vectors[: len(self)] != self.vectors).any(1)
            self._compared = vectors.base, moved
        return SlotTable(vectors, self, moved)


@dataclass(frozen=True, eq=False)
class SlotTable(Generic[IndexT]):
    """The vectors of all slots of one snapshot, most of them in an index where there are many."""

    vectors: Vectors  # (M, D)
    folded: FoldedSlots[IndexT] | None = None
    moved: Flags | None = None  # (F,) true where a vector is another than when it was folded

    @cached_property
    def num_moved(self) -> int:
        return int(np.count_nonzero(self.moved)) if self.moved is not None else 0

    @cached_property
    def rest(self) -> NDArray[np.int64]:
        """The slots that the index does not stand for, rising."""
        num_folded = len(self.folded) if self.folded else 0
        behind = np.arange(num_folded, len(self.vectors))
        if self.moved is None or not self.num_moved:
            return behind
        return np.concatenate([np.flatnonzero(self.moved), behind])

    @cached_property
    def rest_vectors(self) -> Vectors:
        """(R, D) their vectors."""
        return self.vectors[self.rest] if self.num_moved else self.vectors[len(self.vectors) - len(self.rest) :]
