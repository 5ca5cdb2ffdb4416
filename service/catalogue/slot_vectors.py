"""The vector of an item that training never saw: its direction from watchers and attributes, its scores from a prior.

A vector that points at its watchers' queries scores unlike any trained item: too high for everybody, or for nobody.
So it is scaled and shifted until its scores for the bundle's own reference queries have the mean and the spread that
items of the same popularity have (docs/decisions/0057-fresh-items.md has what was measured).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.attributes.columns import Kind
from model.catalogue import Catalogue, Ragged
from service.catalogue.snapshot import required
from service.catalogue.state import CatalogueState, Slot

Vector = NDArray[np.float32]
MAX_SAMPLE = 50_000  # most popular items that means and priors are taken of
PRIOR_WATCHERS = 1.0  # watchers that what attributes say weighs as much as
PRIOR_ITEMS = 5.0  # items that the mean of all weighs as much as in the mean of those that share a value
USUAL = 0.75  # a new item is expected to be watched as often as this quantile of the bundle's items
COMMON = 0.1  # of a query's length: below it queries have nothing in common that could shift a score


class VectorTable(Protocol):
    """The vectors of a bundle's items; an exact index is one."""

    @property
    def dim(self) -> int: ...
    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Learnt:
    """The watchers of one item so far."""

    total: Vector  # (D,) sum of their directions
    count: int


@dataclass(frozen=True)
class Priors:
    """The scores of trained items for reference queries, by popularity; and what those queries have in common."""

    queries: NDArray[np.float32]  # (R, D)
    common: Vector  # (D,) of length 1
    mean: NDArray[np.float64]  # coefficients of a polynomial in log1p(count)
    spread: NDArray[np.float64]
    usual: float  # count that is expected where nobody says
    most: float  # largest count that was seen

    @classmethod
    def of(cls, queries: NDArray[np.float32], vectors: NDArray[np.float32], counts: NDArray[np.int64]) -> "Priors":
        """queries: (R, D); vectors: (S, D) of items, with their counts (S,)."""
        scores, popularity = vectors @ queries.T, np.log1p(counts.astype(np.float64))
        # a parabola needs three different counts; fewer give a line or a constant
        degree = min(2, len(np.unique(popularity)) - 1)
        mean, spread = (np.polyfit(popularity, own, degree) for own in (scores.mean(1), scores.std(1)))
        return cls(queries, unit(queries.mean(0)), mean, spread, float(np.quantile(counts, USUAL)), float(counts.max()))

    def fit(self, direction: Vector, count: float) -> Vector:
        """The vector along `direction`, beside what all queries share, that scores as items watched so often do."""
        popularity = np.log1p(min(count, self.most))
        own = direction - (direction @ self.common) * self.common
        scores = self.queries @ own
        spread = max(float(np.polyval(self.spread, popularity)), 0.0)
        # queries that all score alike cannot be spread
        vector = own * (spread / float(scores.std())) if scores.std() > 1e-9 else np.zeros_like(own)
        reach = float((self.queries @ self.common).mean())
        if reach >= COMMON * float(np.linalg.norm(self.queries, axis=1).mean()):
            missing = float(np.polyval(self.mean, popularity)) - float((self.queries @ vector).mean())
            vector = vector + missing / reach * self.common
        fitted: Vector = vector.astype(np.float32)
        return fitted


class SlotVectors:
    """Vectors of slots in the space of one bundle. Taught by an event loop, read by any thread.

    What follows from a slot is kept under its number: two threads that find it missing both compute the same.
    """

    def __init__(self, arm: str, catalogue: Catalogue, exact: VectorTable, queries: NDArray[np.float32]) -> None:
        """queries: (R, D) such as the bundle's users ask, its golden ones."""
        self._arm, self._catalogue, self._exact, self._queries = arm, catalogue, exact, queries
        self._learnt: dict[int, Learnt] = {}
        self._fixed: dict[int, Vector | None] = {}  # by slot: its vector where that is given
        self._estimates: dict[int, tuple[tuple[int, int], Vector]] = {}  # with what they follow from
        self._described: dict[int, Vector] = {}  # by slot: the direction that its attributes say

    def learn(self, slot: int, queries: NDArray[np.float32]) -> None:
        """Moves a slot towards a watcher's query vectors (Q, D)."""
        known = self._learnt.get(slot)
        direction = unit(queries - self._priors.queries.mean(0)).mean(0)
        total, count = (known.total, known.count) if known else (np.zeros_like(direction), 0)
        self._learnt[slot] = Learnt(total + direction, count + 1)

    def num_learnt(self, slot: int) -> int:
        """Watchers that a slot has learnt from."""
        known = self._learnt.get(slot)
        return known.count if known else 0

    def of(self, state: CatalogueState) -> NDArray[np.float32]:
        """(M, D) the vectors of all slots."""
        vectors = np.zeros((len(state.slots), self._exact.dim), dtype=np.float32)
        for number in state.current.values():
            slot = state.slots[number]
            if number not in self._fixed:
                self._fixed[number] = self._given(slot)
            given = self._fixed[number]
            vectors[number] = self._estimate(number, slot) if given is None else given
        return vectors

    def _estimate(self, number: int, slot: Slot) -> Vector:
        """The estimate of a slot, kept until it has learnt more or is watched more often."""
        key = self.num_learnt(number), len(slot.watchers)
        if (known := self._estimates.get(number)) is None or known[0] != key:
            known = self._estimates[number] = key, self._fit(number, slot)
        return known[1]

    def _fit(self, number: int, slot: Slot) -> Vector:
        if number not in self._described:
            self._described[number] = self._describe(slot)
        learnt = self._learnt.get(number)
        direction = PRIOR_WATCHERS * self._described[number] + (learnt.total if learnt else 0)
        # whoever watched it already is proof of at least so many
        expected = max(self._priors.usual, float(len(slot.watchers)))
        return self._priors.fit(direction, expected if slot.expected_watches is None else slot.expected_watches)

    def _given(self, slot: Slot) -> Vector | None:
        """The trained vector of an item that the bundle knows, else the one that was put, else None."""
        if row := self._catalogue.items.row(slot.id):
            trained: Vector = self._exact.gather(np.array([row])).reshape(-1)
            return trained
        given = slot.vectors.get(self._arm)
        return np.array(given, dtype=np.float32) if given is not None and len(given) == self._exact.dim else None

    def _describe(self, slot: Slot) -> Vector:
        """The direction, of length 1 or 0, in which items that share a value with this one differ from all."""
        total = np.zeros(self._exact.dim, dtype=np.float32)
        if slot.attributes and self._catalogue.attributes is not None:
            for name, value in slot.attributes.items():
                for member in value if isinstance(value, list) else [value]:
                    if (own := self._means.get((name, member))) is not None:
                        total += own
        return unit(total)

    @cached_property
    def _priors(self) -> Priors:
        counts = self._catalogue.counts[self._sample - 1]
        return Priors.of(self._queries, self._exact.gather(self._sample), counts)

    @cached_property
    def _sample(self) -> NDArray[np.int64]:
        return self._catalogue.by_popularity[:MAX_SAMPLE]

    @cached_property
    def _directions(self) -> NDArray[np.float32]:
        """(S, D) unit vectors of the sample."""
        return unit(self._exact.gather(self._sample))

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
            totals = np.add.reduceat(self._directions[owners[order]] - self._directions.mean(0), starts, axis=0)
            shrunk = totals / (counts[:, None] + PRIOR_ITEMS)
            means |= {(name, column.values[code - 1]): own for code, own in zip(values.tolist(), shrunk, strict=True)}
        return means


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same directions, of length 1."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    directions: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return directions
