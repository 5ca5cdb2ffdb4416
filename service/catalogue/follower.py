"""Follows the log: changes into this process's state, watchers of new items into their vectors.

An engine's process asks its own engines for the query vectors of a watcher, through their queue and cache; an HTTP
process takes the changes alone.
"""

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from service.catalogue.changes import PutItem, Watcher
from service.catalogue.live import LiveItems
from service.catalogue.log import READ_WHILE_SERVING, CatalogueLog, Numbered
from service.catalogue.state import CatalogueState, LiveState
from service.errors import RecallError
from service.stores.redis_client import RedisUnavailable

PAUSE_S = 0.1  # between two reads: changes that come together are one snapshot, which costs more the more items came
BITE, REST = 32, 3  # changes that are taken in at once while requests are answered, and times as long nothing is
RETRY_S, FOLD_PAUSE_S, FOLD_NICE = 0.5, 1.0, 10
log = structlog.get_logger()


class Slots(Protocol):
    """Vectors of slots that learn from watchers (service/catalogue/slot_vectors.py)."""

    def learn(self, slot: int, queries: NDArray[np.float32]) -> None: ...
    def num_learnt(self, slot: int) -> int: ...
    def prepare(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Learner:
    """A release of this process that learns: its items, their vectors, and its engine's query vectors of a watcher."""

    items: LiveItems
    slots: Slots
    embed: Callable[[Watcher], Awaitable[NDArray[np.float32]]]


class CatalogueFollower:
    """Keeps a process's state that of the log. Belongs to one event loop."""

    def __init__(
        self, changes: CatalogueLog, state: LiveState, learners: Callable[[], Iterable[Learner]] = lambda: ()
    ) -> None:
        """learners: those of the releases that serve now."""
        self._changes, self._state, self._learners = changes, state, learners
        self._taught: dict[Slots, CatalogueState] = {}  # the state whose watchers a release has all learnt
        self.failures: Counter[str] = Counter()

    async def catch_up(self) -> None:
        """Reads what the log holds, so that a start lists nothing that was deleted; later, where Redis is away."""
        try:
            while changes := await self._changes.read(wait=False):
                await self._advance(changes)
        except RedisUnavailable as error:
            log.warning("catalogue_not_read", cause=error.cause, reason="it is read once Redis answers")
        await self._learn()

    async def run(self) -> None:
        """Follows until it is cancelled; while Redis is away the last state stands."""
        folding = asyncio.create_task(self._fold())
        try:
            await self._follow()
        finally:
            folding.cancel()

    async def _fold(self) -> None:
        """Folds what has come into indexes, beside the reading: a second or more where there is much."""
        pool = ThreadPoolExecutor(1, "fold", step_back)
        try:
            while True:
                for learner in [*self._learners()]:
                    await aside(learner.items.fold, pool)
                await asyncio.sleep(FOLD_PAUSE_S)
        finally:
            pool.shutdown(wait=False)

    async def _follow(self) -> None:
        while True:
            try:
                changes = await self._changes.read()
            except RedisUnavailable as error:
                self.failures[error.cause] += 1
                await asyncio.sleep(RETRY_S)
                continue
            rested_s = 0.0
            for start in range(0, len(changes), BITE):
                began = time.perf_counter()
                await self._advance(changes[start : start + BITE])
                # at each step: who has seen every state need not look through all of the next one
                await self._learn()
                # a request waits for a bite at most, and most find none; one slow step delays no deletion, and who is
                # behind does not rest
                if len(changes) < READ_WHILE_SERVING:
                    rested_s += (rest_s := min(REST * (time.perf_counter() - began), PAUSE_S))
                    await asyncio.sleep(rest_s)
            if not changes:
                await self._learn()
            await asyncio.sleep(max(PAUSE_S - rested_s, 0) if len(changes) < READ_WHILE_SERVING else 0)

    async def _advance(self, changes: Sequence[Numbered]) -> None:
        """Takes changes in, once every release is ready to say where a new item lies and has its next snapshot."""
        if not changes:
            return
        learners = [*self._learners()]
        if any(isinstance(change, PutItem) for _, change in changes):
            for learner in learners:
                # the first time a quarter of a second or more: not in whichever thread asks for the next list
                await aside(learner.slots.prepare)
        state = await asyncio.to_thread(self._state.current.after, changes)
        for learner in learners:
            await aside(partial(learner.items.prepare, state))
        self._state.become(state)

    async def _learn(self) -> None:
        """Teaches every release the watchers that it has not heard of, those of a release just loaded among them."""
        state, taught = self._state.current, dict[Slots, CatalogueState]()
        for learner in self._learners():
            # mostly nothing has come since the last time: then no slot is looked at
            if self._taught.get(learner.slots) is state or await self._teach(learner, state):
                taught[learner.slots] = state
            elif learner.slots in self._taught:
                taught[learner.slots] = self._taught[learner.slots]
        self._taught = taught

    async def _teach(self, learner: Learner, state: CatalogueState) -> bool:
        """Teaches a release the watchers of a state; False where some are left for the next time."""
        is_whole, has_learnt = True, False
        before = self._taught.get(learner.slots, CatalogueState())
        for number in state.slots.changed_since(before.slots):
            watchers = state.slots[number].watchers if state.alive[number] else ()
            for watched in watchers[learner.slots.num_learnt(number) :]:
                try:
                    learner.slots.learn(number, await learner.embed(watched))
                except RecallError as error:
                    # tried again after the next reading of the log: the watcher stays in the state
                    log.info("watcher_not_learnt", error=str(error))
                    is_whole = False
                    break
                has_learnt = True
        if has_learnt:
            learner.items.refresh()
        return is_whole


def step_back() -> None:
    """Lets every other thread go first where processors are short: nobody waits for what this one makes."""
    if sys.platform == "linux":  # elsewhere a thread has no priority that could be set so
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(own, FOLD_NICE))


async def aside(make: Callable[[], None], pool: ThreadPoolExecutor | None = None) -> None:
    """Makes something in a thread; what fails is told: the changes count all the same, and who asks meets it again."""
    try:
        await asyncio.get_running_loop().run_in_executor(pool, make)
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        log.error("items_not_prepared", error=repr(error)[:500])
