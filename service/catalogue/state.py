"""The sum of all changes so far: the same in every process that has read the same stream, whatever bundle it serves."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from model.catalogue import ExternalId
from service.catalogue.changes import MAX_WATCHERS, Change, DeleteItem, ItemWatched, PutItem
from service.errors import CatalogueBehind

MAX_SLOTS = 50_000  # items put since the stream began; a search of them costs as much as one of so many exact rows


@dataclass(frozen=True, slots=True)
class Slot:
    """An item that was put. Slot s of a bundle of N items is row N + 1 + s, in every process."""

    id: ExternalId
    attributes: Mapping[str, Any] | None
    vectors: Mapping[str, list[float]]
    expected_watches: float | None = None
    watchers: tuple[ItemWatched, ...] = ()


@dataclass(frozen=True, slots=True)
class CatalogueState:
    """Immutable; every change makes another."""

    number: int = 0  # of the last change that it knows
    slots: tuple[Slot, ...] = ()
    current: Mapping[ExternalId, int] = field(default_factory=dict)  # id -> the slot that is alive
    hidden: Mapping[ExternalId, None] = field(default_factory=dict)  # ids whose row in a bundle is dead, oldest first

    def after(self, changes: Iterable[tuple[int, Change]]) -> "CatalogueState":
        """The state that numbered changes, in order, lead to."""
        new = [*changes]
        if not new:
            return self
        slots, current, hidden = list(self.slots), dict(self.current), dict(self.hidden)
        for _, change in new:
            match change:
                case PutItem() if len(slots) < MAX_SLOTS:
                    # the row of the bundle gives way to the slot
                    hidden.setdefault(change.id, None)
                    # put again, an item keeps those who have watched it: its vector need not be learnt anew
                    kept = slots[current[change.id]].watchers if change.id in current else ()
                    current[change.id] = len(slots)
                    slots.append(Slot(change.id, change.attributes, change.vectors, change.expected_watches, kept))
                case DeleteItem():
                    hidden.setdefault(change.id, None)
                    current.pop(change.id, None)
                case ItemWatched():
                    own = current.get(change.id)
                    if own is not None and len(slots[own].watchers) < MAX_WATCHERS:
                        slots[own] = replace(slots[own], watchers=(*slots[own].watchers, change))
        return CatalogueState(new[-1][0], tuple(slots), current, hidden)


class LiveState:
    """The state of this process, and the way to wait for it. `current` may be read from any thread."""

    def __init__(self) -> None:
        self.current = CatalogueState()
        self._changed = asyncio.Event()

    def advance(self, changes: Iterable[tuple[int, Change]]) -> None:
        """Takes changes in; belongs to one event loop."""
        self.current = self.current.after(changes)
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
