"""Requests and results of an engine: records between the spine and the engine's stages."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions
from model.catalogue import ExternalId
from model.merging import Merged
from model.records import History
from service.stores.vector_codec import CachedVectors

if TYPE_CHECKING:
    from model.device.recall import Ticket


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request in rows of an arm's catalogue; `Release.request` makes it from external ids."""

    history: History
    limit: int  # 0 = vectors alone, no search
    excluded: Collection[int] = frozenset()  # item rows that may not appear
    vectors: CachedVectors | None = None  # known already: search only
    deadline: float = float("inf")  # time.monotonic()
    key: bytes | None = None  # of the vectors in the cache; None = not asked, not kept
    allowed: NDArray[np.bool_] | None = None  # (N,) place r - 1 tells of row r; None = every row
    unknown: Sequence[ExternalId] = ()  # ids of the history that the catalogue lacks; no engine reads them
    is_bulk: bool = False  # a member of a batch: single requests are computed first
    is_cheap: bool = False  # by the cheaper plan; the engine decides, where a deadline is too near for the whole one

    @property
    def is_cold(self) -> bool:
        """True when no item of the history is known."""
        return not self.history.items

    @property
    def weight(self) -> int:
        """Tokens it costs to compute."""
        return 1 + (0 if self.vectors else len(self.history.items))

    def with_vectors(self, vectors: CachedVectors) -> "EngineRequest":
        return replace(self, vectors=vectors)

    def in_bulk(self) -> "EngineRequest":
        return replace(self, is_bulk=True)

    def cheaper(self) -> "EngineRequest":
        return replace(self, is_cheap=True)


class EngineResult(NamedTuple):
    """An arm's answer, still in rows."""

    vectors: CachedVectors
    merged: Merged
    timings_ms: dict[str, float]
    known: bool = False  # the vectors were not computed for this
    is_cheap: bool = False  # of the cheaper plan


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The bounds of an engine's queue and of its batches."""

    max_waiting: int = 2048  # single requests, and as many members of batches
    max_batch_tokens: int | None = None  # None = what the device computes at once
    max_batch: int = 256
    stall_s: float = 1.25  # a batch that is longer under way than this hangs


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request's vectors between the two threads."""

    vectors: CachedVectors
    encode_ms: float  # of its batch


@dataclass(frozen=True, slots=True)
class Started:
    """A batch under way on a card, between the two threads."""

    places: Sequence[int]  # of the requests that the card answers
    ticket: "Ticket | None"  # None: it answers none of them
    since: float  # time.perf_counter()


EMPTY = Merged(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64))


def exclusions(requests: Sequence[EngineRequest], num_queries: int) -> Exclusions:
    """The excluded rows of each request, for each of its query vectors."""
    sizes = [len(request.excluded) for request in requests for _ in range(num_queries)]
    rows = chain.from_iterable(request.excluded for request in requests for _ in range(num_queries))
    total = sum(sizes)
    return Exclusions(np.repeat(np.arange(len(sizes)), sizes), np.fromiter(rows, np.int64, total))
