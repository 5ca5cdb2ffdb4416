"""A piece of work that an engine was asked for, from then until its answer."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from model.records import History
from service.engine.blocks import Receiver, RequestBlock, ResultBlock, Work, split
from service.engine.messages import EngineRequest, EngineResult
from service.errors import DeadlineExceeded, EngineFailed, RecallError
from service.scheduling.failures import free_device_memory, is_out_of_memory
from service.stores.vector_codec import CachedVectors

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Waiting:
    """A piece of work from `submit` until its answer; `vectors_known` when they were not computed for it."""

    request: Work
    answer: Receiver[Any]  # of an EngineResult, or of a ResultBlock where the work is a block
    since: float
    vectors_known: bool = False
    is_second_try: bool = False  # its first batch was too large for the memory
    _is_computing: bool = False

    @property
    def weight(self) -> int:
        return self.request.weight

    @property
    def size(self) -> int:
        return self.request.size

    @property
    def is_bulk(self) -> bool:
        return self.request.is_bulk

    @property
    def is_cheap(self) -> bool:
        return isinstance(self.request, EngineRequest) and self.request.is_cheap

    @property
    def can_be_cheap(self) -> bool:
        """True for a list of one user whose vectors have to be computed."""
        request = self.request
        return isinstance(request, EngineRequest) and request.limit > 0 and not request.vectors

    def make_cheap(self) -> None:
        """Takes the cheaper plan: the deadline is too near for the whole one."""
        if isinstance(self.request, EngineRequest):
            self.request = self.request.cheaper()

    def learn(self, vectors: CachedVectors) -> None:
        """Takes known vectors, unless its own are already being computed."""
        # a late answer of the cache may not change what a thread is reading
        if not self._is_computing and isinstance(self.request, EngineRequest):
            self.request, self.vectors_known = self.request.with_vectors(vectors), True

    def start(self, recent: Mapping[History, CachedVectors]) -> None:
        """Joins a batch, with the vectors of its history where an earlier batch has just encoded it."""
        request = self.request
        if isinstance(request, EngineRequest) and not request.vectors and (vectors := recent.get(request.history)):
            self.learn(vectors)
        self._is_computing = True

    def succeed(self, result: EngineResult | ResultBlock, queue_ms: float) -> None:
        self.answer.set_result(result.told(queue_ms, self.vectors_known, self.is_cheap))

    def fail(self, error: RecallError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def expire(self) -> None:
        self.fail(DeadlineExceeded("the deadline passed before the answer was ready"))


def parts_of(work: Work, answer: Receiver[Any], size: int, since: float) -> list[Waiting]:
    """The work as pieces of at most `size` users, where it is a block; 0 = as requests."""
    if isinstance(work, RequestBlock) and work.size > size:
        return [Waiting(part, receiver, since) for part, receiver in split(work, size, answer)]
    return [Waiting(work, answer, since)]


def halves_of(batch: Sequence[Waiting], cause: BaseException | None) -> list[list[Waiting]]:
    """The two halves of a batch that was too large for the memory, for a second try.

    Empty where it failed otherwise, was halved before, or cannot be.
    """
    if not is_out_of_memory(cause) or any(waiting.is_second_try for waiting in batch):
        return []
    pieces = [waiting for waiting in batch if not waiting.answer.done()]
    if len(pieces) == 1:
        [waiting] = pieces
        pieces = parts_of(waiting.request, waiting.answer, -(-waiting.size // 2), waiting.since)
    if len(pieces) < 2:
        return []
    again = [replace(waiting, is_second_try=True) for waiting in pieces]
    log.warning("engine_batch_halved", batch=sum(waiting.size for waiting in pieces), error=repr(cause)[:500])
    free_device_memory()
    middle = len(again) // 2
    return [again[:middle], again[middle:]]


def next_half(halves: deque[list[Waiting]]) -> list[Waiting]:
    """Takes the next half of a batch, without whom nobody waits for any more; empty where none is left."""
    while halves:
        if left := [waiting for waiting in halves.popleft() if not waiting.answer.done()]:
            return left
    return []


def fail_each(batch: Iterable[Waiting], why: str) -> None:
    """Tells each that the engine failed."""
    for waiting in batch:
        waiting.fail(EngineFailed(why))
