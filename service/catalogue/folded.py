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
Fold = Callable[[Vectors], IndexT | None]  # (F, D) to an index of them; None = they are scored one by one


@dataclass(frozen=True, eq=False)
class FoldedSlots(Generic[IndexT]):
    """Slots 0 .. F - 1 as they were when they were folded."""

    vectors: Vectors  # (F, D)
    index: IndexT

    def __len__(self) -> int:
        return len(self.vectors)

    def stands_for(self, vectors: Vectors) -> "SlotTable[IndexT]":
        """The slots (M, D), M >= F, as they are now."""
        # rows in the same memory never change
        is_same = vectors.base is not None and vectors.base is self.vectors.base
        own = vectors[: len(self)]
        moved = np.zeros(len(self), dtype=np.bool_) if is_same else (own != self.vectors).any(1)
        return SlotTable(vectors, self, moved)


@dataclass(frozen=True, eq=False)
class SlotTable(Generic[IndexT]):
    """The vectors of all slots of one snapshot, most of them in an index where there are many."""

    vectors: Vectors  # (M, D)
    folded: FoldedSlots[IndexT] | None = None
    moved: Flags | None = None  # (F,) true where a vector is another than when it was folded

    @property
    def num_moved(self) -> int:
        return int(np.count_nonzero(self.moved)) if self.moved is not None else 0

    @cached_property
    def rest(self) -> NDArray[np.int64]:
        """The slots that the index does not stand for, rising."""
        num_folded = len(self.folded) if self.folded else 0
        behind = np.arange(num_folded, len(self.vectors))
        return behind if self.moved is None else np.concatenate([np.flatnonzero(self.moved), behind])

    @cached_property
    def rest_vectors(self) -> Vectors:
        """(R, D) their vectors."""
        return self.vectors[self.rest] if self.num_moved else self.vectors[len(self.vectors) - len(self.rest) :]
