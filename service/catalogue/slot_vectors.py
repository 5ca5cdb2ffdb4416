"""Vectors of the items that were put: given, trained, or estimated from attributes and first watchers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.attributes.columns import Kind
from model.catalogue import Catalogue, Ragged
from service.catalogue.newcomers import Newcomers
from service.catalogue.snapshot import required
from service.catalogue.state import CatalogueState, Slot

Vector = NDArray[np.float32]
MAX_SAMPLE = 50_000  # most popular items that priors are taken of; scores of the others are too low to count
ROOM = 1.5  # times as many rows as there are, so that most new ones need no copy
PRIOR_ITEMS = 2.0  # items that nothing weighs as much as, in the mean of those that share a value


class GrowingRows:
    """Tables of rows that are only added to, mostly: a longer one lies in the memory of the one before it."""

    def __init__(self, dim: int) -> None:
        self.none: Vector = np.zeros((0, dim), dtype=np.float32)
        self._memory, self._num_given = self.none, 0  # rows that some table shows: those never change
        self._lock = Lock()

    def with_rows(self, known: Vector, num_rows: int, own: Mapping[int, Vector]) -> Vector:
        """(num_rows, D) the rows of `known`, an earlier table or `none`, with some set; other new rows are any."""
        with self._lock:
            is_longest = known.base is self._memory and len(known) == self._num_given
            if not is_longest or num_rows > len(self._memory) or min(own, default=num_rows) < len(known):
                self._memory = np.zeros((int(ROOM * max(num_rows, 64)), known.shape[1]), dtype=np.float32)
                kept = min(len(known), num_rows)
                self._memory[:kept], self._num_given = known[:kept], num_rows
            for number, row in own.items():
                self._memory[number] = row
            self._num_given = max(self._num_given, num_rows)
            return self._memory[:num_rows]


class VectorTable(Protocol):
    """The vectors of a bundle's items; an exact index is one."""

    @property
    def dim(self) -> int: ...
    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Learnt:
    """The watchers of one item so far."""

    total: Vector  # (D,) sum of the mean query vector of each
    count: int


@dataclass(frozen=True)
class References:
    """Query vectors such as a bundle's users ask, computed when the first item needs them."""

    ask: Callable[[], NDArray[np.float32]]  # () -> (R, D)
    are_real: bool = True  # of users in training; others say nothing of how watchers differ from everybody


class SlotVectors:
    """Vectors of slots in the space of one bundle. Taught by an event loop, read by any thread.

    What follows from a slot is kept under its number: two threads that find it missing both compute the same.
    """

    def __init__(self, arm: str, catalogue: Catalogue, exact: VectorTable, references: References) -> None:
        self._arm, self._catalogue, self._exact, self._references = arm, catalogue, exact, references
        self._learnt: dict[int, Learnt] = {}
        self._taught: list[int] = []  # slots in the order in which they learnt; only ever added to
        self._rows = GrowingRows(exact.dim)
        # the newest vectors, of which state, after how many of `taught`
        self._last = CatalogueState(), self._rows.none, 0
        self._fixed: dict[int, Vector | None] = {}  # by slot: its vector where that is given
        self._estimates: dict[int, tuple[tuple[int, int], Vector]] = {}  # with what they follow from
        self._described: dict[int, Vector] = {}  # by slot: what its attributes add to a typical vector

    def learn(self, slot: int, queries: NDArray[np.float32]) -> None:
        """Moves a slot towards a watcher's query vectors (Q, D)."""
        known, own = self._learnt.get(slot), queries.mean(0)
        self._learnt[slot] = Learnt(known.total + own, known.count + 1) if known else Learnt(own, 1)
        self._taught.append(slot)

    def prepare(self) -> None:
        """Computes what all estimates follow from, which takes a while the first time."""
        _ = self._newcomers
        if self._catalogue.attributes is not None:
            _ = self._means

    def num_learnt(self, slot: int) -> int:
        """Watchers that a slot has learnt from."""
        known = self._learnt.get(slot)
        return known.count if known else 0

    def of(self, state: CatalogueState) -> NDArray[np.float32]:
        """(M, D) the vectors of all slots; those that are gone have any."""
        before, known, num_taught = self._last
        taught = self._taught[num_taught:]
        # most slots are as they were: with tens of thousands a look at each would cost more than the search
        changed = {*state.slots.changed_since(before.slots), *taught}
        own: dict[int, Vector] = {}
        for number in changed:
            slot = state.slots.find(number)
            if slot is None or not state.alive[number]:
                continue
            if number not in self._fixed:
                self._fixed[number] = self._given(slot)
            given = self._fixed[number]
            own[number] = self._estimate(number, slot) if given is None else given
        vectors = self._rows.with_rows(known, len(state.slots), own)
        self._last = state, vectors, num_taught + len(taught)
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
        expected = max(self._newcomers.usual, float(len(slot.watchers)))
        expected = expected if slot.expected_watches is None else slot.expected_watches
        learnt, watchers = self._learnt.get(number), None
        if learnt and self._references.are_real:
            watchers = learnt.total.astype(np.float64) / learnt.count
        count = learnt.count if learnt else 0
        fitted = self._newcomers.fit(self._described[number].astype(np.float64), expected, watchers, count)
        return fitted.astype(np.float32)

    def _given(self, slot: Slot) -> Vector | None:
        """The trained vector of an item that the bundle knows, else the one that was put, else None."""
        if row := self._catalogue.items.row(slot.id):
            trained: Vector = self._exact.gather(np.array([row])).reshape(-1)
            return trained
        given = slot.vectors.get(self._arm)
        return given if given is not None and len(given) == self._exact.dim else None

    def _describe(self, slot: Slot) -> Vector:
        """(D,) what items that share a value with this one add to a typical vector."""
        total = np.zeros(self._exact.dim, dtype=np.float32)
        if slot.attributes and self._catalogue.attributes is not None:
            for name, value in slot.attributes.items():
                for member in value if isinstance(value, list) else [value]:
                    if (own := self._means.get((name, member))) is not None:
                        total += own
        return total

    @cached_property
    def _newcomers(self) -> Newcomers:
        counts = self._catalogue.counts[self._sample - 1]
        return Newcomers.of(self._references.ask(), self._exact.gather(self._sample), counts)

    @cached_property
    def _sample(self) -> NDArray[np.int64]:
        return self._catalogue.by_popularity[:MAX_SAMPLE]

    @cached_property
    def _means(self) -> dict[tuple[str, object], Vector]:
        """The part that items of each value add to a typical vector, by attribute and value.

        One attribute after the other explains what those before it have left.
        """
        means: dict[tuple[str, object], Vector] = {}
        attributes, rows = required(self._catalogue.attributes), self._newcomers.popular(self._sample)
        counts = self._catalogue.counts[rows - 1]
        rest = self._exact.gather(rows) - self._newcomers.typical(counts).astype(np.float32)
        for name, column_type in attributes.types.items():
            if column_type.kind is Kind.NUMBER:
                continue
            column = attributes.column(name)
            codes = Ragged.of(column.of_row(row).tolist() for row in rows.tolist())
            owners = np.repeat(np.arange(len(codes)), codes.lengths)
            values, own = np.unique(codes.values, return_inverse=True)
            if not len(values):
                continue
            order = np.argsort(own, kind="stable")
            starts = np.searchsorted(own[order], np.arange(len(values)))
            totals = np.add.reduceat(rest[owners[order]], starts, axis=0)
            shrunk = totals / (np.bincount(own)[:, None] + PRIOR_ITEMS)
            np.subtract.at(rest, owners, shrunk[own])
            means |= {(name, column.values[code - 1]): part for code, part in zip(values.tolist(), shrunk, strict=True)}
        return means
