"""The shadow comparison: a sampled query is put to the other arms too, to measure how many items their lists share.

It begins after the answer, in tasks of its own: it delays no answer and changes none. Knows queries and results by the
few properties it needs.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import RecallError
from service.experiments.assignment import Assignment

SAMPLE_EVERY = 1000  # queries; the other arms compute the sampled one too


class PinnableQuery(Protocol):
    """A query that can be put to any arm."""

    def pinned_to(self, arm: str) -> Self: ...


class ListedResult(Protocol):
    """The part of an answer that is compared."""

    @property
    def assignment(self) -> Assignment: ...

    @property
    def item_ids(self) -> NDArray[Any]: ...


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


class ShadowComparison(Generic[Query]):
    """Compares the arms on one query in `sample_every`. Belongs to one event loop; `close` it there."""

    def __init__(self, pipeline: ArmsPipeline[Query], overlap: Average, sample_every: int = SAMPLE_EVERY) -> None:
        self._pipeline, self._overlap, self._sample_every = pipeline, overlap, sample_every
        self._answers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()  # held, or the event loop may forget them

    def sample(self, query: Query, result: ListedResult) -> None:
        """Starts a comparison when it is this query's turn; never waits."""
        # a single arm has nobody to be compared with, and its answers are not counted
        if len(self._pipeline.arms) < 2 or next(self._answers) % self._sample_every:
            return
        task = asyncio.create_task(self._compare(query, result))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
