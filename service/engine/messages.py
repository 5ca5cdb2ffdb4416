"""Requests and results of an engine: records between the spine and the engine's stages."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions
from model.catalogue import ExternalId
from model.merging import Merged
from model.records import History
from model.rules import NO_RULES, ListRules
from service.lists.reasons import Reasons
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
    rules: ListRules = NO_RULES
    min_catalogue: int = 0  # the change of the catalogue that the answer has to know
    explain: bool = False
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

    @property
    def is_plain(self) -> bool:
        """True when nothing is asked beside the model's own list."""
        return self.rules == NO_RULES and not self.explain

    @property
    def size(self) -> int:
        """Users that are answered."""
        return 1

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
    timings_ms: Mapping[str, float]  # of its whole batch, which shares it
    known: bool = False  # the vectors were not computed for this
    catalogue: int = 0  # the last change of the catalogue that the list knows
    reasons: Reasons | None = None  # of the items listed, where they were asked for
    is_cheap: bool = False  # of the cheaper plan

    def only(self, kept: NDArray[np.bool_]) -> "EngineResult":
        """The result with those items of its list alone, (L,)."""
        rows, scores, sources = self.merged
        merged = Merged(rows[kept], scores[kept], sources[kept])
        reasons = self.reasons.only(kept) if self.reasons else None
        return self._replace(merged=merged, reasons=reasons)

    def told(self, queue_ms: float, known: bool, is_cheap: bool = False) -> "EngineResult":
        """The same with what the queue knows of it."""
        return self._replace(timings_ms={**self.timings_ms, "queue": queue_ms}, known=known, is_cheap=is_cheap)


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

    places: Sequence[int]  # of the users that the card answers
    limits: NDArray[np.int32]  # (B,) of all users
    ticket: "Ticket | None"  # None: it answers none of them
    since: float  # time.perf_counter()


def exclusions(
    requests: Sequence[EngineRequest], num_queries: int, num_rows: int, dead: Sequence[int] = ()
) -> Exclusions:
    """The excluded rows of each request, and those that are dead, for each of its query vectors; 1 .. num_rows."""
    if len(requests) == 1 and not dead:
        return _alone(requests[0].excluded, num_queries, num_rows)
    excluded = [request.excluded for request in requests]
    # a set: a dead item may be in the history as well, and would be excluded twice
    if dead:
        excluded = [frozenset(own).union(dead) for own in excluded]
    # each of a request's query vectors is a query of its own to the index
    sizes = [len(own) for own in excluded for _ in range(num_queries)]
    rows = chain.from_iterable(own for own in excluded for _ in range(num_queries))
    queries, rows_of_all = np.repeat(np.arange(len(sizes)), sizes), np.fromiter(rows, np.int64, sum(sizes))
    inside = rows_of_all <= num_rows
    return Exclusions(queries, rows_of_all) if inside.all() else Exclusions(queries[inside], rows_of_all[inside])


def _alone(excluded: Collection[int], num_queries: int, num_rows: int) -> Exclusions:
    """The same for a single request, in fewer steps."""
    rows = np.fromiter(excluded, np.int64, len(excluded))
    rows = rows if rows.max(initial=0) <= num_rows else rows[rows <= num_rows]
    return Exclusions(np.arange(num_queries).repeat(len(rows)), np.concatenate([rows] * num_queries))
