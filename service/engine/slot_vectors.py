"""The vector of an item that training never saw: its direction from watchers or attributes, its length from a prior.

With the right direction and the length of a cold item it would surface nowhere; with that of a warm one it does
(docs/decisions/0057-fresh-items.md has what was measured).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.attributes.columns import Kind
from model.catalogue import Catalogue, Ragged
from service.catalogue.snapshot import required
from service.catalogue.state import CatalogueState, Slot

if TYPE_CHECKING:
    from index.exact import ExactIndex

Vector = NDArray[np.float32]
MAX_SAMPLE = 50_000  # most popular items that means are taken of
PRIOR_WATCHERS = 2.0  # watchers that what attributes say weighs as much as
PRIOR_ITEMS = 5.0  # items that the mean of all weighs as much as in the mean of those that share a value
WARM = 0.75  # a new item is as long as this quantile of the bundle's items by popularity


@dataclass(frozen=True)
class Learnt:
    """The watchers of one item so far."""

    total: Vector  # (D,) sum of unit vectors
    count: int


class SlotVectors:
    """Vectors of slots in the space of one bundle. Read by the engine's thread, taught by its event loop."""

    def __init__(self, arm: str, catalogue: Catalogue, exact: "ExactIndex") -> None:
        self._arm, self._catalogue, self._exact = arm, catalogue, exact
        self._learnt: dict[int, Learnt] = {}
        self._first: list[Vector] = []  # of each slot, before anybody watched it; longer only
        self._is_given: list[bool] = []

    def learn(self, slot: int, queries: NDArray[np.float32]) -> None:
        """Moves a slot towards a watcher's query vectors (Q, D)."""
        known = self._learnt.get(slot)
        direction = unit(unit(queries).mean(0))
        total, count = (known.total, known.count) if known else (np.zeros_like(direction), 0)
        self._learnt[slot] = Learnt(total + direction, count + 1)

    def num_learnt(self, slot: int) -> int:
        """Watchers that a slot has learnt from."""
        known = self._learnt.get(slot)
        return known.count if known else 0

    def of(self, state: CatalogueState) -> NDArray[np.float32]:
        """(M, D) the vectors of all slots."""
        for slot in state.slots[len(self._first) :]:
            row = self._catalogue.items.row(slot.id)
            given = slot.vectors.get(self._arm)
            is_given = row > 0 or (given is not None and len(given) == self._exact.dim)
            self._is_given.append(is_given)
            self._first.append(self._fixed(row, given) if is_given else self._expected(slot))
        vectors = np.zeros((len(state.slots), self._exact.dim), dtype=np.float32)
        if self._first:
            vectors[:] = self._first[: len(state.slots)]
        for number, learnt in list(self._learnt.items()):
            if number < len(vectors) and not self._is_given[number]:
                direction = learnt.total + PRIOR_WATCHERS * unit(vectors[number])
                vectors[number] = self._length * unit(direction)
        return vectors

    def _fixed(self, row: int, given: list[float] | None) -> Vector:
        """The trained vector of an item that the bundle knows, else the one that was given."""
        if row:
            trained: Vector = self._exact.gather(np.array([row])).reshape(-1)
            return trained
        return np.array(given, dtype=np.float32)

    def _expected(self, slot: Slot) -> Vector:
        """The mean of items that share a value with this one, shrunk to the mean of all; as long as a warm item."""
        total = self._mean.copy()
        if slot.attributes and self._catalogue.attributes is not None:
            for name, value in slot.attributes.items():
                for member in value if isinstance(value, list) else [value]:
                    if (own := self._means.get((name, member))) is not None:
                        total += own
        return self._length * unit(total)

    @cached_property
    def _sample(self) -> NDArray[np.int64]:
        return self._catalogue.by_popularity[:MAX_SAMPLE]

    @cached_property
    def _directions(self) -> NDArray[np.float32]:
        """(S, D) unit vectors of the sample."""
        return unit(self._exact.gather(self._sample))

    @cached_property
    def _mean(self) -> Vector:
        """(D,) the direction that is right for an item of which nothing is known."""
        mean: Vector = self._directions.mean(0)
        return mean

    @cached_property
    def _means(self) -> dict[tuple[str, object], Vector]:
        """The part that items of each value add to the mean of all, by attribute and value."""
        means: dict[tuple[str, object], Vector] = {}
        attributes = required(self._catalogue.attributes)
        for name, column_type in attributes.types.items():
            if column_type.kind is Kind.NUMBER:
                continue
            column = attributes.column(name)
            codes = Ragged.of(column.of_row(row).tolist() for row in self._sample.tolist())
            owners = np.repeat(np.arange(len(codes)), codes.lengths)
            order = np.argsort(codes.values, kind="stable")
            values, starts, counts = np.unique(codes.values[order], return_index=True, return_counts=True)
            if not len(values):
                continue
            totals = np.add.reduceat(self._directions[owners[order]] - self._mean, starts, axis=0)
            shrunk = totals / (counts[:, None] + PRIOR_ITEMS)
            means |= {(name, column.values[code - 1]): own for code, own in zip(values.tolist(), shrunk, strict=True)}
        return means

    @cached_property
    def _length(self) -> float:
        """The length of a warm item: the line through log popularity and length, at a high quantile of popularity."""
        counts = np.log1p(self._catalogue.counts[self._sample - 1].astype(np.float64))
        lengths = np.linalg.norm(self._exact.gather(self._sample), axis=1)
        if counts.std() == 0:
            return float(np.quantile(lengths, WARM))
        slope, base = np.polyfit(counts, lengths, 1)
        return float(base + slope * np.quantile(counts, WARM))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same directions, of length 1."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    directions: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return directions
