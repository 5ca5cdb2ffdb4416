"""A request that an engine was asked for, from then until its answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from model.records import History
from service.engine.messages import EngineRequest, EngineResult
from service.errors import DeadlineExceeded
from service.stores.vector_codec import CachedVectors


@dataclass(slots=True, eq=False)
class Waiting:
    """A request from `ask` until its answer; `vectors_known` when they were not computed for it."""

    request: EngineRequest
    answer: "asyncio.Future[EngineResult]"
    since: float
    vectors_known: bool = False
    _is_computing: bool = False

    @property
    def weight(self) -> int:
        return self.request.weight

    @property
    def is_bulk(self) -> bool:
        return self.request.is_bulk

    def make_cheap(self) -> None:
        """Takes the cheaper plan: the deadline is too near for the whole one."""
        self.request = self.request.cheaper()

    def learn(self, vectors: CachedVectors) -> None:
        """Takes known vectors, unless its own are already being computed."""
        if not self._is_computing:
            self.request, self.vectors_known = self.request.with_vectors(vectors), True

    def start(self, recent: Mapping[History, CachedVectors]) -> None:
        """Joins a batch, with the vectors of its history where an earlier batch has just encoded it."""
        if self.request.vectors is None and (vectors := recent.get(self.request.history)):
            self.learn(vectors)
        self._is_computing = True

    def succeed(self, result: EngineResult) -> None:
        self.answer.set_result(result._replace(known=self.vectors_known, is_cheap=self.request.is_cheap))

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def expire(self) -> None:
        self.fail(DeadlineExceeded("the deadline passed before the answer was ready"))
