"""Changes of the catalogue while it is served: items put and deleted by their team, watched by users."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Protocol

import structlog

from model.attributes.table import BadAttribute
from model.catalogue import ExternalId
from service.catalogue.changes import MAX_WATCHERS, DeleteItem, ItemWatched, PutItem
from service.catalogue.log import CatalogueLog
from service.catalogue.snapshot import required
from service.catalogue.state import MAX_SLOTS, LiveState
from service.engine.arms import ArmSlot, Release
from service.errors import BadRequest, CatalogueFull, RecallError, UnknownItem
from service.stores.history import HistoryStore

MAX_HISTORY = 50  # newest items of a watcher's history that are kept with the item
log = structlog.get_logger()


class WatchEvent(Protocol):
    """The part of a feedback event that tells of a watcher."""

    @property
    def user(self) -> str: ...
    @property
    def item(self) -> ExternalId: ...
    @property
    def is_history(self) -> bool: ...


class ItemEditor:
    """Checks changes against the arms that are served, and puts them into the log."""

    def __init__(
        self, changes: CatalogueLog, state: LiveState, arms: Mapping[str, ArmSlot], histories: HistoryStore
    ) -> None:
        self._changes, self._state, self._arms, self._histories = changes, state, arms, histories

    async def put(self, item: PutItem) -> int:
        """The number of the change that brings an item.

        Raises BadRequest for values or vectors that an arm cannot take, CatalogueFull, EventsUnavailable.
        """
        for slot in self._arms.values():
            check_item(item, slot.current)
        if unknown := item.vectors.keys() - self._arms.keys():
            raise BadRequest(f"vectors: no arm is called {min(unknown)[:64]!r}; there are {', '.join(self._arms)}")
        if len(self._state.current.slots) >= MAX_SLOTS:
            raise CatalogueFull(f"{MAX_SLOTS} items were put since the stream began; build a bundle and start it anew")
        return await self._changes.append(item)

    async def delete(self, item: ExternalId) -> int:
        """The number of the change that takes an item out. Raises UnknownItem, EventsUnavailable."""
        current = self._state.current
        is_listed = item in current.current or any(
            slot.current.catalogue.items.row(item) and item not in current.hidden for slot in self._arms.values()
        )
        if not is_listed:
            raise UnknownItem(f"no arm lists the item {str(item)[:64]!r}")
        return await self._changes.append(DeleteItem(item))

    async def watched(self, event: WatchEvent) -> None:
        """Tells the log of a new item's watcher, once a user; what fails is lost, for one of many."""
        state = self._state.current
        number = state.current.get(event.item)
        if number is None or not event.is_history:
            return
        watchers = state.slots[number].watchers
        if len(watchers) >= MAX_WATCHERS or any(str(own.user) == event.user for own in watchers):
            return
        history = await self._before(event)
        if not history:
            return
        try:
            await self._changes.append(ItemWatched(event.item, event.user, history))
        except RecallError as error:
            log.info("watcher_lost", error=str(error))

    async def _before(self, event: WatchEvent) -> list[ExternalId]:
        """The newest items of the user's history without this one."""
        kept: Sequence[ExternalId] = await self._histories.recent(event.user, MAX_HISTORY) or ()
        return [item for item in kept if item != event.item]


def check_item(item: PutItem, arm: Release) -> None:
    """Raises BadRequest for values or a vector that this arm's bundle cannot take."""
    items = arm.catalogue.items
    is_text = items.ids.dtype.kind != "i"
    if isinstance(item.id, str) is not is_text:
        raise BadRequest(f"id: those of the arm {arm.name} are {'text' if is_text else 'integers'}")
    try:
        if item.attributes:
            required(arm.catalogue.attributes).check(item.attributes)
    except BadAttribute as error:
        raise BadRequest(f"attributes: {error}") from error
    vector = item.vectors.get(arm.name)
    if vector is None:
        return
    if items.row(item.id):
        raise BadRequest(f"vectors: the bundle of the arm {arm.name} has a trained vector of this item; leave it out")
    if len(vector) != arm.dim or not all(map(isfinite, vector)) or not any(vector):
        raise BadRequest(f"vectors: the arm {arm.name} takes {arm.dim} finite numbers, not all of them 0")
