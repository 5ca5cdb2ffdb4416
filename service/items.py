"""Changes of the catalogue while it is served: items put and deleted by their team, watched by users."""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from math import isfinite
from typing import Protocol

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from model.attributes.table import BadAttribute
from model.catalogue import ExternalId, IdMap
from model.ids import RULE
from service.catalogue.changes import MAX_WATCHERS, DeleteItem, ItemWatched, PutItem, Watcher
from service.catalogue.follower import CatalogueFollower, Learner
from service.catalogue.intake import Intake
from service.catalogue.log import CatalogueLog, MemoryCatalogueLog, RedisCatalogueLog
from service.catalogue.snapshot import required
from service.catalogue.state import MAX_SLOTS, LiveState
from service.engine.arms import ArmSlot, Release
from service.errors import BadRequest, CatalogueFull, RecallError, UnknownItem
from service.settings import Settings
from service.stores.history import HistoryStore
from service.stores.redis_client import RedisClient, RedisLimits

READ_MS = 2000.0  # that a read of the log may take, of which it waits a part for changes
CATCH_UP_S = 2.0  # that a deletion of an item nobody lists waits for changes on their way
CHECKED_AT_ONCE = 8  # items of a batch; then the event loop turns to others
SMALL, LARGE = 1e-15, 1e15  # largest numbers of a vector, of which products keep their digits
MAX_HISTORY = 50  # newest items of a watcher's history that are kept with the item
log = structlog.get_logger()


class WatchEvent(Protocol):
    """The part of a feedback event that tells of a watcher."""

    @property
    def user(self) -> str: ...
    @property
    def item(self) -> ExternalId: ...


class ItemEditor:
    """Checks changes against the arms that are served, and puts them into the log."""

    def __init__(
        self,
        changes: CatalogueLog,
        state: LiveState,
        arms: Mapping[str, ArmSlot],
        histories: HistoryStore,
        intake: Intake,
    ) -> None:
        self._changes, self._state, self._arms, self._histories = changes, state, arms, histories
        self._intake = intake
        self._on_their_way = deque[int]()  # numbers of own puts that the state does not know yet
        self._num_in_line = 0

    async def put(self, items: Sequence[PutItem]) -> list[int | RecallError]:
        """The numbers of the changes that bring items, under the form of their ids that the arms' have.

        In place of a number BadRequest for values or vectors that an arm cannot take, or CatalogueFull. Raises
        Overloaded where too many wait to be kept, EventsUnavailable where it is not certain that all are.
        """
        good, refused = list[PutItem](), dict[int, RecallError]()
        try:
            for place, item in enumerate(items):
                if place and place % CHECKED_AT_ONCE == 0:
                    await asyncio.sleep(0)
                try:
                    good.append(self._checked(item))
                except RecallError as error:
                    refused[place] = error
                else:
                    # at once: others are checked between two of a batch
                    self._num_in_line += 1
            if not good:
                return [*refused.values()]
            await self._intake.admit(len(good))
            kept = await self._changes.append(good)
        finally:
            self._num_in_line -= len(good)
        self._on_their_way += kept
        numbers = iter(kept)
        return [refused[place] if place in refused else next(numbers) for place in range(len(items))]

    def _checked(self, item: PutItem) -> PutItem:
        item = msgspec.structs.replace(item, id=self._items.own_form(item.id))
        for slot in self._arms.values():
            check_item(item, slot.current)
        if unknown := item.vectors.keys() - self._arms.keys():
            raise BadRequest(f"vectors: no arm is called {min(unknown)[:64]!r}; there are {', '.join(self._arms)}")
        if len(self._state.current.slots) + self._num_pending >= MAX_SLOTS:
            raise CatalogueFull(
                f"{MAX_SLOTS} items were put since the log of changes began: build bundles that have them, stop the "
                "service and delete that log (docs/catalogue.md has the command)"
            )
        return item

    @property
    def _num_pending(self) -> int:
        """Own puts that wait in line, or are kept and not known yet: they will be slots."""
        while self._on_their_way and self._on_their_way[0] <= self._state.current.number:
            self._on_their_way.popleft()
        return self._num_in_line + len(self._on_their_way)

    async def delete(self, item: ExternalId) -> int:
        """The number of the change that takes an item out. Raises UnknownItem, EventsUnavailable, CatalogueBehind."""
        if not self._is_listed(item):
            # it may have been put a moment ago, here or by another process
            await self._state.wait_for(await self._changes.newest(), asyncio.get_running_loop().time() + CATCH_UP_S)
            if not self._is_listed(item):
                raise UnknownItem(f"no arm lists the item {str(item)[:64]!r}")
        [number] = await self._changes.append([DeleteItem(item)])
        return number

    def _is_listed(self, item: ExternalId) -> bool:
        current = self._state.current
        return item in current.current or any(
            slot.current.catalogue.items.row(item) and item not in current.hidden for slot in self._arms.values()
        )

    def read_id(self, text: str) -> ExternalId:
        """The id in a path: an integer where those of the first arm are. Raises BadRequest where it is none."""
        item = self._items.own_form(text)
        if isinstance(item, str) and self._items.are_integers:
            raise BadRequest(f"item: {RULE}; those of this service are integers")
        return item

    async def watched(self, event: WatchEvent) -> None:
        """Tells the log of a new item's watcher, once a user; what fails is lost, for one of many.

        event: one that enters the user's history.
        """
        state = self._state.current
        if not state.current:
            return
        item = self._items.own_form(event.item)
        if (number := state.current.get(item)) is None:
            return
        watchers = state.slots[number].watchers
        if len(watchers) >= MAX_WATCHERS or any(str(own.user) == event.user for own in watchers):
            return
        history = await self._before(event.user, item)
        if not history:
            return
        try:
            await self._changes.append([ItemWatched(item, event.user, history)])
        except RecallError as error:
            log.info("watcher_lost", error=str(error))

    async def _before(self, user: str, item: ExternalId) -> list[ExternalId]:
        """The newest items of the user's history without this one."""
        kept: Sequence[ExternalId] = await self._histories.recent(user, MAX_HISTORY) or ()
        return [own for own in kept if self._items.own_form(own) != item]

    @property
    def _items(self) -> IdMap:
        """The ids of the first arm; those of all arms are of one type, else nothing can be put."""
        return next(iter(self._arms.values())).current.catalogue.items


def check_item(item: PutItem, arm: Release) -> None:
    """Raises BadRequest for values or a vector that this arm's bundle cannot take."""
    items = arm.catalogue.items
    if isinstance(item.id, int) is not items.are_integers:
        raise BadRequest(f"id: those of the arm {arm.name} are {'integers' if items.are_integers else 'text'}")
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
    # in single precision others overflow, or are nothing
    if len(vector) != arm.dim or not all(map(isfinite, vector)) or not SMALL < max(map(abs, vector)) < LARGE:
        raise BadRequest(
            f"vectors: the arm {arm.name} takes {arm.dim} finite numbers below {LARGE:g}, not all of them 0"
        )


def open_changes(settings: Settings, stack: AsyncExitStack) -> tuple[CatalogueLog, tuple[RedisClient, ...]]:
    """The log of the catalogue's changes, beside the other events, and its clients of Redis where it has some."""
    if settings.keeps_events_in_memory:
        return MemoryCatalogueLog(), ()
    url = settings.events_redis_url or settings.redis_url or ""
    writer = RedisClient(url, "items", RedisLimits(settings.events_timeout_ms))
    # a read waits for changes: its patience is its own
    reader = RedisClient(url, "catalogue", RedisLimits(READ_MS))
    for client in (writer, reader):
        stack.push_async_callback(client.close)
    return RedisCatalogueLog(writer, reader), (writer, reader)


async def follow(follower: CatalogueFollower, stack: AsyncExitStack) -> None:
    """Reads what the log holds, then follows it until the stack closes."""
    await follower.catch_up()
    following = asyncio.create_task(follower.run())
    following.add_done_callback(tell_end)
    stack.callback(following.cancel)


def tell_end(following: asyncio.Task[None]) -> None:
    """Logs why the log is followed no more, where that is not the end of the service: lists are those of then."""
    if not following.cancelled() and (error := following.exception()) is not None:
        log.critical("catalogue_not_followed", error=repr(error)[:500])


def learners(arms: Mapping[str, ArmSlot]) -> Iterator[Learner]:
    """The releases of this process that learn the vectors of new items."""
    for release in (release for slot in arms.values() for release in slot.releases):
        if release.slots is not None:
            yield Learner(release.items, release.slots, partial(watcher_vectors, release))


async def watcher_vectors(release: Release, watched: Watcher) -> NDArray[np.float32]:
    """(Q, D) the query vectors of a watcher before the item."""
    # with outcomes a list of one: vectors that are asked for alone are then those of the outcomes
    limit = 1 if release.plan.outcomes else 0
    return (await release.engine.ask(release.request(watched.user, watched.history, limit=limit))).vectors.vectors
