"""Many waiting requests, one encode, one search: batches form while the last one computes.

No timer, bounded, nobody hangs. What waits is taken as soon as the compute thread is free, up to a number of history
items. Work whose caller has gone or whose deadline has passed is dropped and counted, never computed. A batch that
fails fails each of its members, loudly. Knows the encoder and the index by protocol only. Source: the batching of
text-embeddings-inference.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import structlog

from index.base import ItemIndex
from model.catalogue import Ragged
from model.merging import Merged, merge
from model.records import History, QueryVectors, ServingPlan
from service.cache import CachedVectors
from service.errors import DeadlineExceeded, EngineFailed, Overloaded

CLOSE_SECONDS = 5.0
log = structlog.get_logger()


class Encoder(Protocol):
    """Turns histories into query vectors; called from one thread at a time."""

    def encode(self, histories: Sequence[History]) -> QueryVectors:
        """(B, Q, D) vectors and (B, P) generated rows, in order. B >= 1. The same answer for a history in any batch.

        Raises ValueError for rows outside the catalogue.
        """


@dataclass(frozen=True, slots=True)
class Question:
    """What one request wants of an arm."""

    history: History
    limit: int
    excluded: Collection[int] = frozenset()  # item rows that may not appear
    vectors: CachedVectors | None = None  # known already: search only
    deadline: float = float("inf")  # time.monotonic()

    @property
    def weight(self) -> int:
        """Tokens it costs to compute."""
        return 1 + (0 if self.vectors else len(self.history.items))

    def with_vectors(self, vectors: CachedVectors) -> "Question":
        return replace(self, vectors=vectors)


@dataclass(frozen=True, slots=True)
class Found:
    """An arm's answer, still in rows."""

    vectors: CachedVectors
    merged: Merged
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class EngineLimits:
    max_waiting: int = 1024
    max_batch_tokens: int = 4096
    max_batch: int = 256


@dataclass(slots=True)
class _Waiting:
    question: Question
    answer: "asyncio.Future[Found]"
    since: float = field(default_factory=time.monotonic)


class Engine:
    """One arm's compute: belongs to one event loop, owns one thread."""

    def __init__(
        self,
        encoder: Encoder,
        index: ItemIndex,
        plan: ServingPlan,
        categories: Ragged | None = None,
        limits: EngineLimits = EngineLimits(),
    ) -> None:
        self._encoder, self._index, self._plan, self._categories, self._limits = (
            encoder,
            index,
            plan,
            categories,
            limits,
        )
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recall-engine")
        self._worker: asyncio.Task[None] | None = None
        self.dropped: Counter[str] = Counter()
        self.last_batch_at = float("-inf")  # time.monotonic() when a batch was last computed
        self.on_batch: Callable[[int, int], None] = lambda _size, _waiting: None

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def ask(self, question: Question) -> Found:
        """Raises Overloaded, DeadlineExceeded or EngineFailed."""
        if len(self._waiting) >= self._limits.max_waiting:
            self.dropped["queue_full"] += 1
            raise Overloaded("the recall queue is full; try again in a moment")
        waiting = _Waiting(question, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        # it runs in the next round of the loop: whoever asks in this one is in its first batch
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        try:
            # the loop's clock is time.monotonic; an answer that nobody hears any more is dropped where it stands
            async with asyncio.timeout_at(question.deadline):
                return await waiting.answer
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the answer was ready") from None

    async def close(self) -> None:
        """Fails whoever still waits and ends the thread."""
        for waiting in self._waiting:
            self._fail(waiting, EngineFailed("the service is stopping"))
        self._waiting.clear()
        if self._worker:
            # the batch under way is waited for, its callers still get their answers; but a stuck one not for ever
            await asyncio.wait([self._worker], timeout=CLOSE_SECONDS)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        try:
            while batch := self._take():
                self.on_batch(len(batch), len(self._waiting))
                await self._serve(batch)
        finally:
            self._worker = None

    def _take(self) -> list[_Waiting]:
        """The oldest work that fits one batch, without what nobody waits for any more."""
        batch: list[_Waiting] = []
        tokens, now = 0, time.monotonic()
        while self._waiting and len(batch) < self._limits.max_batch:
            weight = self._waiting[0].question.weight
            # a single question is taken whatever it weighs, or it would wait for ever
            if batch and tokens + weight > self._limits.max_batch_tokens:
                break
            waiting = self._waiting.popleft()
            if waiting.question.deadline < now:
                self.dropped["deadline"] += 1
                self._fail(waiting, DeadlineExceeded("the deadline passed while the request waited"))
            elif waiting.answer.done():
                self.dropped["client_gone"] += 1
            else:
                batch.append(waiting)
                tokens += weight
        return batch

    async def _serve(self, batch: list[_Waiting]) -> None:
        started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._thread, self.compute, [w.question for w in batch])
        except Exception as error:  # noqa: BLE001 - the batch boundary: whatever broke, every member must hear of it
            log.error("engine_batch_failed", error=repr(error)[:500], batch=len(batch))
            self.dropped["engine_failed"] += len(batch)
            for waiting in batch:
                self._fail(waiting, EngineFailed("the recall engine failed on this batch"))
            return
        self.last_batch_at = time.monotonic()
        for waiting, answer in zip(batch, found, strict=True):
            answer.timings_ms["queue"] = 1e3 * (started - waiting.since)
            if waiting.answer.done():
                self.dropped["late"] += 1
            else:
                waiting.answer.set_result(answer)

    @staticmethod
    def _fail(waiting: _Waiting, error: Exception) -> None:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)

    def compute(self, questions: Sequence[Question]) -> list[Found]:
        """Encode, search and merge, in order; also what offline evaluation calls, so both give the same lists."""
        t0 = time.perf_counter()
        vectors = self._vectors(questions)
        t1 = time.perf_counter()
        # deep enough that nothing excluded can shorten the list
        depths = [min(q.limit + len(q.excluded), self._index.num_items) for q in questions]
        hits = self._index.search(np.concatenate([v.vectors for v in vectors]), max(depths))
        t2 = time.perf_counter()
        merged, start = [], 0
        for question, own, depth in zip(questions, vectors, depths, strict=True):
            part = slice(start, start := start + len(own.vectors))
            # cut to its own depth: a deep neighbour must not change a pooled list
            rows, scores = hits.rows[part, :depth], hits.scores[part, :depth]
            merged.append(merge(rows, scores, question.excluded, question.limit, self._plan, self._categories))
        t3 = time.perf_counter()
        timings = {"encode": 1e3 * (t1 - t0), "search": 1e3 * (t2 - t1), "merge": 1e3 * (t3 - t2)}
        # times of the whole batch: each member waited for all of it
        return [Found(v, m, dict(timings)) for v, m in zip(vectors, merged, strict=True)]

    def _vectors(self, questions: Sequence[Question]) -> list[CachedVectors]:
        fresh = [q.history for q in questions if q.vectors is None]
        encoded = self._encoder.encode(fresh) if fresh else None
        # in the order of the questions that lacked vectors
        computed = iter([CachedVectors(v, p) for v, p in zip(*encoded, strict=True)] if encoded else [])
        return [q.vectors or next(computed) for q in questions]
