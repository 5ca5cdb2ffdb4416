"""Many waiting requests, one look-up, one encode, one search: batches form while the last one computes.

    asked -> known vectors, from the cache -> waiting -> batch -> encode -> search and merge -> answers

No timer, bounded, nobody hangs. Three stages run at once, each with batches of its own: the cache is asked for all who
came while it answered the last ones; encoding has a thread, search and merge another, and at most one batch is searched
while one is encoded. A cache that is a trip away is asked where the trip ends before the encoder is free; nobody waits
for it (docs/decisions/0015-redis-off-the-path.md). Work whose caller has gone or whose deadline has passed is dropped
and counted, never computed. A batch that fails fails each of its members, loudly. The same history twice in a batch is
encoded once, and what a batch has encoded the next one finds. Knows the encoder and the index by protocol only.
Source: the batching of text-embeddings-inference.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
import structlog

from index.base import Hits, ItemIndex
from model.catalogue import Ragged
from model.records import History, QueryVectors, ServingPlan
from service.engine.fill import merge_each
from service.engine.messages import EMPTY, EncodedRequest, EngineLimits, EngineRequest, EngineResult, exclusions
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from service.stores.vector_cache import LookupMode, VectorCache
from service.stores.vector_codec import CachedVectors

CLOSE_SECONDS = 5.0
MAX_RECENT = 4096
WORTH_A_TRIP = 16  # who finds so many waiting will not be encoded before a trip to the cache ends
T = TypeVar("T")
log = structlog.get_logger()


class Encoder(Protocol):
    """Turns histories into query vectors; called from one thread at a time."""

    def encode(self, histories: Sequence[History]) -> QueryVectors:
        """(B, Q, D) vectors and (B, P) generated rows, in order. B >= 1. The same answer for a history in any batch.

        Raises ValueError for rows outside the catalogue.
        """


@dataclass(slots=True, eq=False)
class _Waiting:
    request: EngineRequest
    answer: "asyncio.Future[EngineResult]"
    since: float = field(default_factory=time.monotonic)
    known: bool = False
    taken: bool = False  # it is being computed

    def learn(self, vectors: CachedVectors) -> None:
        self.request, self.known = self.request.with_vectors(vectors), True

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def expire(self) -> None:
        self.fail(DeadlineExceeded("the deadline passed before the answer was ready"))


class Engine:
    """One arm's compute: belongs to one event loop, owns two threads."""

    def __init__(
        self,
        encoder: Encoder,
        index: ItemIndex,
        plan: ServingPlan,
        categories: Ragged | None = None,
        limits: EngineLimits = EngineLimits(),
        prepare_thread: Callable[[], None] = lambda: None,
    ) -> None:
        """prepare_thread: runs first in each of the two threads; the number of compute threads is a thread's own."""
        self._encoder, self._index, self._plan = encoder, index, plan
        self._categories, self._limits = categories, limits
        self._asked: deque[_Waiting] = deque()  # the cache has not been asked for them yet
        self._held: set[_Waiting] = set()  # those who wait for it
        self._waiting: deque[_Waiting] = deque()  # ready to be computed
        self._recent: dict[History, CachedVectors] = {}  # encoded since the queue was last empty
        self._encoding, self._searching = (
            ThreadPoolExecutor(1, f"recall-{stage}", prepare_thread) for stage in ("encode", "search")
        )
        self._looking: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self.cache: VectorCache | None = None
        self.dropped: Counter[str] = Counter()
        self.last_batch_at = float("-inf")  # time.monotonic() when a batch was last computed
        self.on_batch: Callable[[int, int], None] = lambda _size, _waiting: None
        self.on_times: Callable[[dict[str, float]], None] = lambda _times_ms: None  # of a batch that was answered

    @property
    def index(self) -> ItemIndex:
        return self._index

    @property
    def encoder(self) -> Encoder:
        return self._encoder

    @property
    def num_waiting(self) -> int:
        return len(self._held) + len(self._waiting)

    async def ask(self, request: EngineRequest) -> EngineResult:
        """Raises Overloaded, DeadlineExceeded or EngineFailed."""
        if self.num_waiting >= self._limits.max_waiting:
            self.dropped["queue_full"] += 1
            raise Overloaded("the recall queue is full; try again in a moment")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.create_future())
        # workers run in the next round of the loop: whoever asks in this one is in their first batch
        if self.cache and self._ask_cache(self.cache, waiting):
            self._held.add(waiting)
        else:
            self._make_ready([waiting])
        if request.deadline == float("inf"):
            return await waiting.answer
        # the loop's clock is time.monotonic; a handle costs a tenth of asyncio.timeout
        timer = loop.call_at(request.deadline, waiting.expire)
        try:
            return await waiting.answer
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Fails whoever still waits and ends the threads."""
        for waiting in (*self._held, *self._waiting):
            waiting.fail(EngineFailed("the service is stopping"))
        for queue in (self._asked, self._held, self._waiting):
            queue.clear()
        # batches under way are waited for, their callers still get their answers; but a stuck one not for ever
        until = time.monotonic() + CLOSE_SECONDS
        while (
            tasks := [task for task in (self._looking, self._worker, self._finishing) if task]
        ) and time.monotonic() < until:
            await asyncio.wait(tasks, timeout=max(0.0, until - time.monotonic()))
        for thread in (self._encoding, self._searching):
            thread.shutdown(wait=False, cancel_futures=True)

    def _make_ready(self, ready: Sequence[_Waiting]) -> None:
        self._waiting.extend(ready)
        self._worker = self._worker or asyncio.create_task(self._work())

    def _ask_cache(self, cache: VectorCache, waiting: _Waiting) -> bool:
        """Gives a question the vectors that are near, or asks for those further away; true when it has to wait."""
        if waiting.request.key is None or waiting.request.vectors:
            return False
        if vectors := cache.get_local(waiting.request.key):
            waiting.learn(vectors)
            return False
        awaited = cache.lookup_mode is LookupMode.AWAITED
        if awaited or (cache.lookup_mode is LookupMode.OVERLAPPED and len(self._waiting) >= WORTH_A_TRIP):
            self._asked.append(waiting)
            self._looking = self._looking or asyncio.create_task(self._look_up(cache))
        return awaited

    async def _look_up(self, cache: VectorCache) -> None:
        """Trips for all who came meanwhile; a cache never raises, at worst it knows nothing."""
        try:
            while self._asked:
                batch, self._asked = self._asked, deque()
                found = await cache.get_many([w.request.key for w in batch if w.request.key])
                for waiting, vectors in zip(batch, found, strict=True):
                    if vectors and not waiting.taken:
                        waiting.learn(vectors)
                if held := [waiting for waiting in batch if waiting in self._held]:
                    self._held.difference_update(held)
                    self._make_ready(held)
        finally:
            self._looking = None

    async def _work(self) -> None:
        try:
            while batch := self._take():
                self.on_batch(len(batch), self.num_waiting)
                started = time.monotonic()
                vectors = await self._guard(batch, self._encoding, self._encode, [w.request for w in batch])
                if vectors is not None:
                    self._keep(batch, vectors)
                    # one batch is searched while one is encoded, never more
                    if self._finishing:
                        await asyncio.wait([self._finishing])
                    self._finishing = asyncio.create_task(self._finish(batch, vectors, started))
        finally:
            self._worker = None
            self._recent.clear()

    def _take(self) -> list[_Waiting]:
        """The oldest work that fits one batch, without what nobody waits for any more."""
        batch: list[_Waiting] = []
        tokens, now = 0, time.monotonic()
        while self._waiting and len(batch) < self._limits.max_batch:
            weight = self._waiting[0].request.weight
            # a single question is taken whatever it weighs, or it would wait for ever
            if batch and tokens + weight > self._limits.max_batch_tokens:
                break
            waiting = self._waiting.popleft()
            if waiting.request.deadline < now:
                self.dropped["deadline"] += 1
                waiting.expire()
            elif waiting.answer.done():
                self.dropped["client_gone"] += 1
            else:
                waiting.taken = True
                # a thousand at once ask for one history: those of the second batch find what the first has encoded
                if waiting.request.vectors is None and (known := self._recent.get(waiting.request.history)):
                    waiting.learn(known)
                batch.append(waiting)
                tokens += weight
        return batch

    def _keep(self, batch: Sequence[_Waiting], vectors: Sequence[EncodedRequest]) -> None:
        """What was computed goes into the cache, once a key."""
        fresh = [(w.request, one.vectors) for w, one in zip(batch, vectors, strict=True) if not w.request.vectors]
        if len(self._recent) > MAX_RECENT:
            self._recent.clear()
        self._recent |= {request.history: found for request, found in fresh}
        if self.cache:
            self.cache.put_many(list({request.key: found for request, found in fresh if request.key}.items()))

    async def _finish(self, batch: Sequence[_Waiting], vectors: Sequence[EncodedRequest], started: float) -> None:
        try:
            requests = [waiting.request for waiting in batch]
            found = await self._guard(batch, self._searching, self._search, requests, vectors)
            if found:
                self.last_batch_at = time.monotonic()
                self.on_times(found[0].timings_ms)
            for waiting, answer in zip(batch, found or (), strict=False):
                answer.timings_ms["queue"] = 1e3 * (started - waiting.since)
                if waiting.answer.done():
                    self.dropped["late"] += 1
                else:
                    waiting.answer.set_result(replace(answer, known=waiting.known))
        finally:
            self._finishing = None

    async def _guard(
        self, batch: Sequence[_Waiting], thread: ThreadPoolExecutor, work: Callable[..., T], *given: object
    ) -> T | None:
        """Runs work of a batch in a thread; None when it failed, and then each member has heard of it."""
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work, *given)
        except Exception as error:  # noqa: BLE001 - the batch boundary: whatever broke, every member must hear of it
            log.error("engine_batch_failed", error=repr(error)[:500], batch=len(batch))
            self.dropped["engine_failed"] += len(batch)
            for waiting in batch:
                waiting.fail(EngineFailed("the recall engine failed on this batch"))
            return None

    def compute(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """Encode, search and merge, in order; also what offline evaluation calls, so both give the same lists."""
        return self._search(requests, self._encode(requests))

    def _encode(self, requests: Sequence[EngineRequest]) -> list[EncodedRequest]:
        """Vectors of each question: those it brought, or new ones; the same history is encoded once."""
        started = time.perf_counter()
        places: dict[History, int] = {}
        for request in requests:
            if request.vectors is None:
                places.setdefault(request.history, len(places))
        encoded = self._encoder.encode(list(places)) if places else None
        computed = [CachedVectors(v, p) for v, p in zip(*encoded, strict=True)] if encoded else []
        milliseconds = 1e3 * (time.perf_counter() - started)
        return [EncodedRequest(q.vectors or computed[places[q.history]], milliseconds) for q in requests]

    def _search(self, requests: Sequence[EngineRequest], encoded: Sequence[EncodedRequest]) -> list[EngineResult]:
        started = time.perf_counter()
        longest = max(request.limit for request in requests)
        merged = [EMPTY] * len(requests)
        searched = started
        if longest:
            queries = np.concatenate([one.vectors.vectors for one in encoded])  # (B Q, D)
            num_queries = len(queries) // len(requests)
            hits = self._index.search(queries, min(longest, self._index.num_items), exclusions(requests, num_queries))
            searched = time.perf_counter()
            shape = (len(requests), num_queries, -1)
            lists = Hits(hits.rows.reshape(shape), hits.scores.reshape(shape))
            merged = merge_each(requests, lists, self._plan, self._categories)
        times = {"search": 1e3 * (searched - started), "merge": 1e3 * (time.perf_counter() - searched)}
        # times of the whole batch: each member waited for all of it
        return [
            EngineResult(e.vectors, m, {"encode": e.encode_ms, **times}) for e, m in zip(encoded, merged, strict=True)
        ]
