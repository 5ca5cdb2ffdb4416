"""The shadows of answers: sampled queries are put to other arms too, whose lists nobody is shown.

To every other arm, rarely, to measure how many items their lists share; or to one shadow arm, as often as wanted, whose
lists are recorded. It begins after the answer, in tasks of its own: it delays no answer and changes none. Knows queries
and results by the few properties it needs.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import RecallError
from service.experiments.assignment import Assignment
from service.experiments.recorder import RecordedResult

MAX_TASKS = 64  # under way; beyond it an answer has no shadow: they pass no gate, and must not crowd out requests
SAMPLE_EVERY = 1000  # queries; the other arms compute the sampled one too


class PinnableQuery(Protocol):
    """A query that can be put to any arm."""

    def pinned_to(self, arm: str) -> Self: ...


class ListedResult(RecordedResult, Protocol):
    """The part of an answer that is compared, or recorded."""

    @property
    def assignment(self) -> Assignment: ...


Query = TypeVar("Query", bound=PinnableQuery)
Query_contra = TypeVar("Query_contra", bound=PinnableQuery, contravariant=True)


class ArmsPipeline(Protocol[Query_contra]):
    """Answers a query with any of its arms (service/pipeline.py)."""

    @property
    def arms(self) -> Mapping[str, object]: ...

    async def recall(self, query: Query_contra, /) -> ListedResult: ...


class Average(Protocol):
    """The measured value, read when metrics are scraped."""

    def add(self, value: float) -> None: ...


@dataclass(frozen=True, slots=True)
class ShadowArm(Generic[Query_contra]):
    """An arm that is tried on real requests before any of its users is shown a list."""

    name: str
    share: float  # of the answers, chosen at random
    record: Callable[[Query_contra, tuple[ListedResult, ListedResult]], None]  # of the answer and its shadow


class ShadowComparison(Generic[Query]):
    """Compares the arms on one query in `sample_every`. Belongs to one event loop; `close` it there."""

    def __init__(
        self,
        pipeline: ArmsPipeline[Query],
        overlap: Average,
        sample_every: int = SAMPLE_EVERY,
        arm: ShadowArm[Query] | None = None,
    ) -> None:
        self._pipeline, self._overlap, self._sample_every, self._arm = pipeline, overlap, sample_every, arm
        self._answers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()  # held, or the event loop may forget them

    def sample(self, query: Query, result: ListedResult) -> None:
        """Starts a comparison when it is this query's turn; never waits."""
        is_drawn = self._arm and random.random() < self._arm.share and len(self._tasks) < MAX_TASKS
        if self._arm and is_drawn and result.assignment.arm != self._arm.name:
            self._start(self._shadow(query, result, self._arm))
        if len(self._pipeline.arms) < 2 or next(self._answers) % self._sample_every:
            return
        self._start(self._compare(query, result))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _shadow(self, query: Query, result: ListedResult, arm: ShadowArm[Query]) -> None:
        try:
            shadow = await self._pipeline.recall(query.pinned_to(arm.name))
        except RecallError:
            # too late, or too many: counted by the arm's own metrics
            return
        # what filled in for a broken arm says nothing of its lists
        if shadow.served == arm.name:
            arm.record(query, (result, shadow))

    async def _compare(self, query: Query, result: ListedResult) -> None:
        others = [name for name in self._pipeline.arms if name != result.assignment.arm]
        try:
            results = [await self._pipeline.recall(query.pinned_to(name)) for name in others]
        except RecallError:
            # an arm that cannot answer now says nothing of the lists
            return
        self._overlap.add(share_in_common([compared.item_ids for compared in (result, *results)]))

    async def close(self) -> None:
        """Ends the comparisons under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def share_in_common(lists: Sequence[NDArray[Any]]) -> float:
    """The mean share of items that two lists have in common, over all pairs of lists."""
    pairs = list(itertools.combinations(lists, 2))
    # sets: ids of one arm may be integers and those of another strings, which do not sort together
    shares = [len({*left.tolist()} & {*right.tolist()}) / max(len(left), len(right), 1) for left, right in pairs]
    return float(np.mean(shares)) if shares else 1.0
