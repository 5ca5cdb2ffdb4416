"""The sum of all changes so far: the same in every process that has read the same stream, whatever bundle it serves."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.catalogue import ExternalId
from service.catalogue.changes import MAX_WATCHERS, Change, DeleteItem, ItemWatched, PutItem, Watcher
from service.catalogue.layered import Layered
from service.errors import CatalogueBehind

Flags = NDArray[np.bool_]

MAX_SLOTS = 200_000  # items put since the stream began; each is a row that searches score
NO_FLAGS: Flags = np.zeros(0, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Slot:
    """An item that was put. Slot s of a bundle of N items is row N + 1 + s, in every process."""

    id: ExternalId
    attributes: Mapping[str, Any] | None
    vectors: Mapping[str, NDArray[np.float32]]  # (D,) by arm
    expected_watches: float | None = None
    watchers: tuple[Watcher, ...] = ()

    @classmethod
    def of(cls, put: PutItem, watchers: tuple[Watcher, ...]) -> "Slot":
        # a list of numbers takes eight times the memory of an array
        vectors = {arm: np.array(vector, dtype=np.float32) for arm, vector in put.vectors.items()}
        return cls(put.id, put.attributes, vectors, put.expected_watches, watchers)


@dataclass(frozen=True, slots=True, eq=False)
class CatalogueState:
    """Immutable; every change makes another, and shares with it what has not changed."""

    number: int = 0  # of the last change that it knows
    slots: Layered[int, Slot] = field(default_factory=Layered)  # by number, from 0
    current: Layered[ExternalId, int] = field(default_factory=Layered)  # id -> the slot that is alive
    hidden: Layered[ExternalId, int] = field(default_factory=Layered)  # ids whose row in a bundle is dead, from 0
    alive: Flags = field(default_factory=lambda: NO_FLAGS)  # (M,) true for slots that may be listed

    def after(self, changes: Iterable[tuple[int, Change | None]]) -> "CatalogueState":
        """The state that numbered changes, in order, lead to; None is one that cannot be read."""
        if not (new := [*changes]):
            return self
        step = _Step(self)
        for _, change in new:
            if change is not None:
                step.take(change)
        return step.state(new[-1][0])


class _Step:
    """A state under way to the next one."""

    def __init__(self, before: CatalogueState) -> None:
        self._before, self._num_slots = before, len(before.slots)
        self._slots: dict[int, Slot | None] = {}
        self._current: dict[ExternalId, int | None] = {}
        self._hidden: dict[ExternalId, int | None] = {}

    def take(self, change: Change) -> None:
        own = self._own(change.id)
        match change:
            case PutItem() if self._num_slots < MAX_SLOTS:
                # the row of the bundle gives way to the slot
                self._hide(change.id)
                # put again, an item keeps those who have watched it: its vector need not be learnt anew
                self._slots[self._num_slots] = Slot.of(change, self._slot(own).watchers if own is not None else ())
                self._current[change.id] = self._num_slots
                self._num_slots += 1
            case DeleteItem():
                self._hide(change.id)
                self._current[change.id] = None
            case ItemWatched():
                if own is not None and len((slot := self._slot(own)).watchers) < MAX_WATCHERS:
                    self._slots[own] = replace(slot, watchers=(*slot.watchers, Watcher.of(change)))

    def state(self, number: int) -> CatalogueState:
        before = self._before
        alive = np.append(before.alive, np.zeros(self._num_slots - len(before.alive), dtype=np.bool_))
        for id_, now in self._current.items():
            if (old := before.current.find(id_)) is not None:
                alive[old] = False
            if now is not None:
                alive[now] = True
        slots, current = before.slots.after(self._slots), before.current.after(self._current)
        return CatalogueState(number, slots, current, before.hidden.after(self._hidden), alive)

    def _own(self, item: ExternalId) -> int | None:
        return self._current[item] if item in self._current else self._before.current.find(item)

    def _slot(self, number: int) -> Slot:
        return self._slots.get(number) or self._before.slots[number]

    def _hide(self, item: ExternalId) -> None:
        if item not in self._hidden and self._before.hidden.find(item) is None:
            self._hidden[item] = len(self._before.hidden) + len(self._hidden)


class LiveState:
    """The state of this process, and the way to wait for it. `current` may be read from any thread."""

    def __init__(self) -> None:
        self.current = CatalogueState()
        self._changed = asyncio.Event()

    def advance(self, changes: Iterable[tuple[int, Change | None]]) -> None:
        """Takes changes in; belongs to one event loop."""
        self.become(self.current.after(changes))

    def become(self, state: CatalogueState) -> None:
        """Takes a state that follows the current one; belongs to the same loop."""
        self.current = state
        # a new event each time: who waits for a later change finds one that is not set
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(self, number: int, deadline: float) -> None:
        """Returns once change `number` is known. Raises CatalogueBehind when it is not by `deadline` (loop's time)."""
        if self.current.number >= number:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline if deadline < float("inf") else None):
                while self.current.number < number:
                    await self._changed.wait()
                return
        raise CatalogueBehind(f"change {number} of the catalogue is not known here yet; {self.current.number} is")
