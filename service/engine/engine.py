"""Many waiting requests, one look-up, one encode, one search: batches form while the last one computes.

    asked -> known vectors, from the cache -> waiting -> batch -> encode -> search and merge -> answers

No timer, bounded, nobody hangs. Three stages run at once, each with batches of its own: the cache is asked for all who
came while it answered the last ones; encoding has a thread, search and merge another, and at most one batch is searched
while one is encoded. A cache in Redis is asked where its reply comes before the encoder is free; nobody waits for it
(docs/decisions/0015-redis-off-the-path.md). Work whose caller has gone or whose deadline has passed is dropped
and counted, never computed. A batch that fails fails each of its members, loudly. The same history twice in a batch is
encoded once, and the next batch reuses what a batch has encoded. A block of requests is one member where the
computation takes blocks, else each of its requests is. Knows the computation, the cache and the observer by protocol
only.
Source: the batching of text-embeddings-inference.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from model.records import History
from service.engine.blocks import Receiver, RequestBlock, ResultBlock, Work, split, until_deadline
from service.engine.compute import BatchCompute
from service.engine.graphs import GraphCompute
from service.engine.messages import EncodedRequest, EngineLimits, EngineRequest, EngineResult, Started
from service.engine.protocols import DropReason, EngineObserver, SilentObserver
from service.errors import DeadlineExceeded, EngineFailed, Overloaded, RecallError
from service.stores.vector_cache import LookupMode, VectorCache
from service.stores.vector_codec import CachedVectors

CLOSE_SECONDS = 5.0
MAX_RECENT = 4096
MIN_WAITING_FOR_LOOKUP = 16  # behind so many a request is not encoded before Redis has replied
T = TypeVar("T")
log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Waiting:
    """A piece of work from `submit` until its answer; `vectors_known` when they were not computed for it."""

    request: Work
    answer: Receiver[Any]  # of an EngineResult, or of a ResultBlock where the work is a block
    since: float
    vectors_known: bool = False
    _is_computing: bool = False

    def learn(self, vectors: CachedVectors) -> None:
        """Takes known vectors, unless its own are already being computed."""
        if not self._is_computing and isinstance(self.request, EngineRequest):
            self.request, self.vectors_known = self.request.with_vectors(vectors), True

    def start(self, recent: Mapping[History, CachedVectors]) -> None:
        """Joins a batch, with the vectors of its history where an earlier batch has just encoded it."""
        request = self.request
        if isinstance(request, EngineRequest) and not request.vectors and (vectors := recent.get(request.history)):
            self.learn(vectors)
        self._is_computing = True

    def fail(self, error: RecallError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def expire(self) -> None:
        self.fail(DeadlineExceeded("the deadline passed before the answer was ready"))


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
        # vectors that are computed whatever is known of them need not be looked up
        self._cache = cache if compute.reuses_vectors else None
        self._limits, self._observer, self._clock = limits, observer, clock
        self._max_batch_tokens = limits.max_batch_tokens or compute.max_batch_tokens
        self._asked: deque[_Waiting] = deque()  # the cache has not been asked for them yet
        self._held: set[_Waiting] = set()  # those who wait for it
        self._waiting: deque[_Waiting] = deque()  # ready to be computed
        self._num_ready = 0  # users in it
        self._recent: dict[History, CachedVectors] = {}  # encoded since the queue was last empty
        self._encoding, self._searching = (
            ThreadPoolExecutor(1, f"recall-{stage}", prepare_thread) for stage in ("encode", "search")
        )
        self._looking: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Users who wait for a batch."""
        return len(self._held) + self._num_ready

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
        """Has `answer` told the outcome, an EngineResult or a ResultBlock; whoever waits for it keeps the deadline.

        Raises Overloaded.
        """
        if self.num_waiting >= self._limits.max_waiting:
            self._observer.work_dropped(DropReason.QUEUE_FULL, work.size)
            raise Overloaded("the recall queue is full; try again in a moment")
        # workers run in the next round of the loop: whoever asks in this one is in their first batch
        size, now = min(self.compute.max_block, self._limits.max_batch), self._clock()
        if isinstance(work, RequestBlock) and work.size > size:
            parts = [_Waiting(part, receiver, now) for part, receiver in split(work, size, answer)]
        else:
            parts = [_Waiting(work, answer, now)]
        held = {waiting for waiting in parts if self._cache and self._ask_cache(self._cache, waiting)}
        self._held.update(held)
        self._make_ready([waiting for waiting in parts if waiting not in held] if held else parts)

    async def close(self) -> None:
        """Fails whoever still waits and ends the threads."""
        for waiting in (*self._held, *self._waiting):
            waiting.fail(EngineFailed("the service is stopping"))
        for queue in (self._asked, self._held, self._waiting):
            queue.clear()
        self._num_ready = 0
        # batches under way are waited for, their callers still get their answers; a stuck one for CLOSE_SECONDS at most
        until = time.monotonic() + CLOSE_SECONDS
        while (
            tasks := [task for task in (self._looking, self._worker, self._finishing) if task]
        ) and time.monotonic() < until:
            await asyncio.wait(tasks, timeout=max(0.0, until - time.monotonic()))
        for thread in (self._encoding, self._searching):
            thread.shutdown(wait=False, cancel_futures=True)

    def _make_ready(self, ready: Sequence[_Waiting]) -> None:
        self._waiting.extend(ready)
        self._num_ready += sum(waiting.request.size for waiting in ready)
        self._worker = self._worker or asyncio.create_task(self._work())

    def _ask_cache(self, cache: VectorCache, waiting: _Waiting) -> bool:
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
            while batch := self._take():
                self._observer.batch_started(sum(w.request.size for w in batch), self.num_waiting)
                started = self._clock()
                encode: Callable[..., Sequence[EncodedRequest] | Started] = self.compute.encode
                encoded = await self._guard(batch, self._encoding, encode, [w.request for w in batch])
                if encoded is not None:
                    if not isinstance(encoded, Started):
                        self._keep(batch, encoded)
                    # one batch is searched while one is encoded, never more
                    if self._finishing:
                        await asyncio.wait([self._finishing])
                    self._finishing = asyncio.create_task(self._finish(batch, encoded, started))
        finally:
            self._worker = None
            self._recent.clear()

    def _take(self) -> list[_Waiting]:
        """The oldest work that fits one batch, without what nobody waits for any more."""
        batch: list[_Waiting] = []
        tokens, users, now = 0, 0, self._clock()
        while self._waiting:
            weight, size = self._waiting[0].request.weight, self._waiting[0].request.size
            # a single piece of work is taken whatever it weighs, or it would wait for ever
            if batch and (tokens + weight > self._max_batch_tokens or users + size > self._limits.max_batch):
                break
            waiting = self._waiting.popleft()
            self._num_ready -= size
            if waiting.request.deadline < now:
                self._observer.work_dropped(DropReason.DEADLINE, size)
                waiting.expire()
            elif waiting.answer.done():
                self._observer.work_dropped(DropReason.CLIENT_GONE, size)
            else:
                # a thousand at once ask for one history: the second batch reuses what the first has encoded
                waiting.start(self._recent)
                batch.append(waiting)
                tokens, users = tokens + weight, users + size
        return batch

    def _keep(self, batch: Sequence[_Waiting], encoded: Sequence[EncodedRequest]) -> None:
        """Puts computed vectors into the cache, once a key."""
        pairs = zip(batch, encoded, strict=True)
        requests = [(w.request, e.vectors) for w, e in pairs if isinstance(w.request, EngineRequest)]
        fresh = [(request, vectors) for request, vectors in requests if not request.vectors]
        if len(self._recent) > MAX_RECENT:
            self._recent.clear()
        self._recent |= {request.history: vectors for request, vectors in fresh}
        if self._cache:
            self._cache.put_many(list({request.key: vectors for request, vectors in fresh if request.key}.items()))

    async def _finish(
        self, batch: Sequence[_Waiting], encoded: Sequence[EncodedRequest] | Started, started: float
    ) -> None:
        try:
            requests = [waiting.request for waiting in batch]
            search: Callable[..., Sequence[EngineResult | ResultBlock]] = self.compute.search
            results = await self._guard(batch, self._searching, search, requests, encoded)
            if results:
                self.last_batch_at = self._clock()
                self._observer.batch_answered(results[0].timings_ms)
            for waiting, result in zip(batch, results or (), strict=False):
                if waiting.answer.done() or waiting.request.deadline < self.last_batch_at:
                    self._observer.work_dropped(DropReason.LATE, waiting.request.size)
                    waiting.expire()
                else:
                    waiting.answer.set_result(result.told(1e3 * (started - waiting.since), waiting.vectors_known))
        finally:
            self._finishing = None

    async def _guard(
        self, batch: Sequence[_Waiting], thread: ThreadPoolExecutor, work: Callable[..., T], *given: object
    ) -> T | None:
        """Runs work of a batch in a thread; None when it failed, and then each member is told."""
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work, *given)
        except Exception as error:  # noqa: BLE001 - the batch boundary: whatever broke, every member must hear of it
            log.error("engine_batch_failed", error=repr(error)[:500], batch=len(batch))
            self._observer.work_dropped(DropReason.ENGINE_FAILED, sum(waiting.request.size for waiting in batch))
            for waiting in batch:
                waiting.fail(EngineFailed("the recall engine failed on this batch"))
            return None
