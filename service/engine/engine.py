"""Many waiting requests, one look-up, one encode, one search: batches form while the last one computes.

    asked -> known vectors, from the cache -> waiting -> batch -> encode -> search and merge -> answers

No timer, bounded, nobody hangs: a thread that hangs or has died is replaced, and until it computes again everybody is
told so at once. Three stages run at once, each with batches of its own: the cache is asked for all who came while it
answered the last ones; encoding has a thread, search and merge another. A cache in Redis is asked where its reply comes
before the encoder is free (decision 15). Work whose caller has gone, or whose deadline passed, is dropped and counted.
A batch that fails fails each of its members; one too large for the memory is halved first, once. A history twice in a
batch is encoded once, and the next batch reuses it. A block is one member where the computation takes blocks, else each
of its requests is. Knows the computation, the cache and the observer by protocol only.
Source: the batching of text-embeddings-inference.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import structlog

from model.records import History
from service.engine.blocks import Receiver, RequestBlock, ResultBlock, Work, until_deadline
from service.engine.compute import BatchCompute
from service.engine.graphs import GraphCompute
from service.engine.messages import EncodedRequest, EngineLimits, EngineRequest, EngineResult, Started
from service.engine.protocols import DropReason, EngineObserver, SilentObserver
from service.engine.waiting import Waiting, fail_each, halves_of, next_half, parts_of
from service.errors import EngineFailed, Overloaded
from service.scheduling.failures import end_process, is_device_lost
from service.scheduling.lanes import Lanes
from service.scheduling.pace import Pace
from service.scheduling.threads import JobFailed, WatchedThread
from service.stores.vector_cache import LookupMode, VectorCache
from service.stores.vector_codec import CachedVectors

CLOSE_SECONDS = 5.0
MAX_RECENT = 4096
WATCH_S = 0.25
RETRY_S, MAX_RETRY_S = 0.25, 30.0  # until a thread that was replaced is tried again: doubled each time
MIN_WAITING_FOR_LOOKUP = 16  # behind so many a request is not encoded before Redis has replied
T = TypeVar("T")
log = structlog.get_logger()


class Engine:
    """Asks one arm's computation in batches: belongs to one event loop, owns two threads."""

    def __init__(
        self,
        compute: BatchCompute | GraphCompute,
        limits: EngineLimits = EngineLimits(),
        cache: VectorCache | None = None,
        observer: EngineObserver = SilentObserver(),
        prepare_thread: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """prepare_thread: runs first in each of the two threads; the number of compute threads is a thread's own.

        clock: the one that deadlines are told in.
        """
        self.compute, self.last_batch_at = compute, float("-inf")
        self._encode: Callable[..., Sequence[EncodedRequest] | Started] = compute.encode
        self._search: Callable[..., Sequence[EngineResult | ResultBlock]] = compute.search
        self._cache = cache if compute.reuses_vectors else None  # what is computed anyway need not be looked up
        self._limits, self._observer, self._clock = limits, observer, clock
        self._max_batch_tokens = limits.max_batch_tokens or compute.max_batch_tokens
        self._asked: deque[Waiting] = deque()  # the cache has not been asked for them yet
        self._held: set[Waiting] = set()  # those who wait for it
        self._waiting: Lanes[Waiting] = Lanes(clock)  # ready to be computed
        self._halves: deque[list[Waiting]] = deque()  # batches that were too large for the memory: computed first
        self._recent: dict[History, CachedVectors] = {}  # encoded since the queue was last empty
        self._encoding, self._searching = (
            WatchedThread(f"recall-{stage}", prepare_thread, limits.stall_s) for stage in ("encode", "search")
        )
        self._pace, self._cheap_pace = Pace(clock), Pace(clock)
        self.problem: str | None = None
        self._watching: asyncio.Task[None] | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Users who wait for a batch."""
        return len(self._held) + self._waiting.num_users

    async def ask(self, request: EngineRequest) -> EngineResult:
        """Raises Overloaded, DeadlineExceeded or EngineFailed."""
        answer: asyncio.Future[EngineResult] = asyncio.get_running_loop().create_future()
        self.submit(request, answer)
        return await until_deadline(answer, request.deadline)

    async def ask_block(self, block: RequestBlock) -> ResultBlock:
        """Raises Overloaded, DeadlineExceeded or EngineFailed where all have it; else the result says who has which."""
        answer: asyncio.Future[ResultBlock] = asyncio.get_running_loop().create_future()
        self.submit(block, answer)
        return await until_deadline(answer, block.deadline)

    def submit(self, work: Work, answer: Receiver[Any]) -> None:
        """Has `answer` told the outcome. Raises Overloaded, and EngineFailed where nothing is computed now."""
        if self.problem:
            raise EngineFailed(self.problem)
        if self._waiting.count(work.is_bulk) + len(self._held) >= self._limits.max_waiting:
            self._observer.work_dropped(DropReason.QUEUE_FULL, work.size)
            raise Overloaded("the recall queue is full; try again in a moment")
        # workers run in the next round of the loop: who asks in this one is in their first batch
        parts = parts_of(work, answer, min(self.compute.max_block, self._limits.max_batch), self._clock())
        held = {waiting for waiting in parts if self._cache and self._ask_cache(self._cache, waiting)}
        self._held.update(held)
        self._make_ready([waiting for waiting in parts if waiting not in held] if held else parts)

    async def close(self) -> None:
        """Fails whoever still waits and ends the threads."""
        self._fail_all("the service is stopping")
        if self._retrying:
            self._retrying.cancel()
        # batches under way are waited for, their callers still get their answers; a stuck one for CLOSE_SECONDS at most
        until = time.monotonic() + CLOSE_SECONDS
        while (
            tasks := [task for task in (self._looking, self._worker, self._finishing) if task]
        ) and time.monotonic() < until:
            await asyncio.wait(tasks, timeout=max(0.0, until - time.monotonic()))
        if self._watching:
            self._watching.cancel()
        for thread in (self._encoding, self._searching):
            thread.end()

    def _fail_all(self, why: str) -> None:
        """Fails whoever waits; a batch under way goes on."""
        fail_each((*self._held, *self._waiting, *chain(*self._halves)), why)
        for queue in (self._asked, self._held, self._waiting, self._halves):
            queue.clear()

    def _make_ready(self, ready: Sequence[Waiting]) -> None:
        self._waiting.extend(ready)
        self._worker = self._worker or asyncio.create_task(self._work())
        self._watching = self._watching or asyncio.create_task(self._watch())

    def _ask_cache(self, cache: VectorCache, waiting: Waiting) -> bool:
        """Gives a request the vectors that this process keeps, or asks Redis for them; true when it has to wait."""
        request = waiting.request
        if isinstance(request, RequestBlock) or request.key is None or request.vectors:
            return False
        if vectors := cache.get_local(request.key):
            waiting.learn(vectors)
            return False
        awaited = cache.lookup_mode is LookupMode.AWAITED
        if awaited or (cache.lookup_mode is LookupMode.OVERLAPPED and len(self._waiting) >= MIN_WAITING_FOR_LOOKUP):
            self._asked.append(waiting)
            self._looking = self._looking or asyncio.create_task(self._look_up(cache))
        return awaited

    async def _look_up(self, cache: VectorCache) -> None:
        """Asks the cache for all who came meanwhile; a cache never raises, at worst it knows nothing."""
        try:
            while self._asked:
                batch, self._asked = self._asked, deque()
                requests = [w.request for w in batch if isinstance(w.request, EngineRequest)]
                cached = await cache.get_many([request.key for request in requests if request.key])
                for waiting, vectors in zip(batch, cached, strict=True):
                    if vectors:
                        waiting.learn(vectors)
                if held := [waiting for waiting in batch if waiting in self._held]:
                    self._held.difference_update(held)
                    self._make_ready(held)
        finally:
            self._looking = None

    async def _work(self) -> None:
        try:
            while batch := next_half(self._halves) or self._take():
                self._observer.batch_started(sum(w.size for w in batch), self.num_waiting)
                started = self._clock()
                requests = [waiting.request for waiting in batch]
                encoded = await self._guard(batch, self._encoding.run(partial(self._encode, requests)))
                if encoded is not None:
                    # one batch is searched while one is encoded, never more
                    if self._finishing:
                        await asyncio.wait([self._finishing])
                    # given before its task runs: that is a round of the loop later
                    searched = self._searching.run(partial(self._search, requests, encoded))
                    self._finishing = asyncio.create_task(self._finish(batch, searched, started))
                    if not isinstance(encoded, Started):
                        self._keep(batch, encoded)
        finally:
            self._worker = None
            self._recent.clear()

    def _take(self) -> list[Waiting]:
        """The oldest work that fits one batch, without what nobody waits for any more."""
        now, whole, cheap = self._clock(), self._pace.expected_s, self._cheap_pace.expected_s

        def is_wanted(waiting: Waiting) -> bool:
            left = waiting.request.deadline - now
            if waiting.answer.done():
                reason = DropReason.CLIENT_GONE if left > 0 else DropReason.DEADLINE
                self._observer.work_dropped(reason, waiting.size)
                return False
            # a thousand at once ask for one history: the second batch reuses what the first has encoded
            waiting.start(self._recent)
            if is_near := left < whole and self.compute.has_cheaper and waiting.can_be_cheap:
                waiting.make_cheap()
            if left <= (cheap if is_near else whole):
                # it would be computed for nobody
                self._observer.work_dropped(DropReason.DEADLINE, waiting.size)
                waiting.expire()
                return False
            return True

        return self._waiting.take(self._limits.max_batch, self._max_batch_tokens, is_wanted)

    def _keep(self, batch: Sequence[Waiting], encoded: Sequence[EncodedRequest]) -> None:
        """Puts computed vectors into the cache, once a key."""
        works = [(waiting.request, own.vectors) for waiting, own in zip(batch, encoded, strict=True)]
        requests = [(work, new) for work, new in works if isinstance(work, EngineRequest)]
        fresh = [(request, new) for request, new in requests if not (request.vectors or request.is_cheap)]
        if len(self._recent) > MAX_RECENT:
            self._recent.clear()
        self._recent |= {request.history: vectors for request, vectors in fresh}
        if self._cache:
            self._cache.put_many(list({request.key: vectors for request, vectors in fresh if request.key}.items()))

    async def _finish(
        self, batch: Sequence[Waiting], searched: "asyncio.Future[Sequence[EngineResult | ResultBlock]]", started: float
    ) -> None:
        try:
            results = await self._guard(batch, searched)
            if results:
                self.last_batch_at = self._clock()
                pace = self._cheap_pace if all(waiting.is_cheap for waiting in batch) else self._pace
                pace.record(sum(results[0].timings_ms.values()) / 1e3)
                self._observer.batch_answered(results[0].timings_ms)
            for waiting, result in zip(batch, results or (), strict=False):
                if waiting.answer.done() or waiting.request.deadline < self.last_batch_at:
                    self._observer.work_dropped(DropReason.LATE, waiting.size)
                    waiting.expire()
                else:
                    waiting.succeed(result, 1e3 * (started - waiting.since))
        finally:
            self._finishing = None

    async def _guard(self, batch: Sequence[Waiting], job: "asyncio.Future[T]") -> T | None:
        """The result of a batch's job in a thread; None when it failed, and then each member is told."""
        # awaited itself: `asyncio.wait` would tell of it a round of the loop later
        try:
            return await job
        except JobFailed as error:
            if halves := halves_of(batch, error.__cause__):
                self._halves.extend(halves)
                self._make_ready([])  # whoever takes batches may have gone meanwhile
                return None
            log.error("engine_batch_failed", error=str(error)[:500], batch=len(batch))
            self._observer.work_dropped(DropReason.ENGINE_FAILED, sum(waiting.size for waiting in batch))
            fail_each(batch, "the recall engine failed on this batch")
            if is_device_lost(error.__cause__):
                end_process(str(error))
            return None

    async def _watch(self) -> None:
        """Looks at the threads while they compute; one that hangs or died is replaced, and tried before it is used."""
        try:
            while self._worker or self._finishing or self._retrying:
                before = time.monotonic()
                await asyncio.sleep(WATCH_S)
                # on a machine that stands still no more than two looks are counted
                step_s = min(time.monotonic() - before, 2 * WATCH_S)
                for thread in (self._encoding, self._searching):
                    if lost := thread.look(step_s):
                        self._lose(lost)
        finally:
            self._watching = None

    def _lose(self, why: str) -> None:
        log.error("engine_thread_lost", reason=why)
        self.problem = why
        self._fail_all(why)
        self._retrying = self._retrying or asyncio.create_task(self._retry())

    async def _retry(self) -> None:
        """Returns once both threads have answered an empty history; meanwhile nobody else is let in."""
        requests, wait_s = [EngineRequest(History(()), 1)], RETRY_S
        try:
            while self.problem:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, MAX_RETRY_S)
                with suppress(JobFailed):
                    encoded = await self._encoding.run(partial(self._encode, requests))
                    await self._searching.run(partial(self._search, requests, encoded))
                    self.problem, self.last_batch_at = None, self._clock()
                    log.warning("engine_thread_replaced")
        finally:
            self._retrying = None
