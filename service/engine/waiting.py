"""A piece of work that an engine was asked for, from then until its answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.records import History
from service.engine.blocks import Receiver, ResultBlock, Work
from service.engine.messages import EngineRequest, EngineResult
from service.errors import DeadlineExceeded, RecallError
from service.stores.vector_codec import CachedVectors


@dataclass(slots=True, eq=False)
class Waiting:
    """A piece of work from `submit` until its answer; `vectors_known` when they were not computed for it."""

    request: Work
    answer: Receiver[Any]  # of an EngineResult, or of a ResultBlock where the work is a block
    since: float
    vectors_known: bool = False
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
