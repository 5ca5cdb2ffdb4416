"""A batch from requests to results: encode, then search and merge. No queue, no threads, no event loop.

The engine calls the two halves from two threads; offline evaluation calls `run`. Both give the same lists. Knows the
encoder by protocol only, and of search and merge the Finder (finding.py).
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.base import ItemIndex
from model.catalogue import Ragged
from model.outcomes.heads import OutcomeHeads
from model.records import History, QueryVectors, ServingPlan
from service.engine.finding import Asked, Finder, ServedItems
from service.engine.messages import EncodedRequest, EngineRequest, EngineResult
from service.lists.fill import EMPTY
from service.stores.vector_codec import CachedVectors

T = TypeVar("T")


class Encoder(Protocol):
    """Turns histories into query vectors; called from one thread at a time."""

    def encode(self, histories: Sequence[History]) -> QueryVectors:
        """(B, Q, D) vectors and (B, P) generated rows, in order. B >= 1. The same answer for a history in any batch.

        Raises ValueError for rows outside the catalogue.
        """


class EncoderCounters(Protocol):
    """Counts of an encoder since it was built."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_padding(self) -> int: ...
    @property
    def num_eager(self) -> Counter[str]:
        """Passes that ran operation by operation, by reason."""


class SampledRecall(Protocol):
    """A mean over samples: the recall of an approximate index against exact search."""

    @property
    def count(self) -> int: ...
    @property
    def value(self) -> float: ...


@dataclass(frozen=True, slots=True)
class ComputeCounters:
    """The counters that the parts of an arm keep, where they keep any; read when metrics are asked for."""

    encoder: EncoderCounters | None = None
    index_recall: SampledRecall | None = None
    graph_refused: Counter[str] | None = None  # requests that a graph left to the general path, by reason


@dataclass(frozen=True, slots=True)
class BatchCompute:
    """An encoder, an index over the same items, and the plan that merges what they give."""

    max_batch_tokens: ClassVar[int] = 4096  # computed at once where the settings do not say
    max_block: ClassVar[int] = 0  # users of a block that it takes as one: it takes requests alone
    reuses_vectors: ClassVar[bool] = True  # what is known of a history is not computed again

    encoder: Encoder
    index: ItemIndex
    plan: ServingPlan
    categories: Ragged | None = None
    served: ServedItems | None = None  # None: the index's items, without attributes and changes
    cheaper: "BatchCompute | None" = None  # the same items by a plan that costs less; None = there is none
    heads: OutcomeHeads | None = None  # of the outcomes that it can be asked for

    @property
    def has_cheaper(self) -> bool:
        return self.cheaper is not None

    def run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """The results in order; `timings_ms` are those of the whole batch."""
        return self.search(requests, self.encode(requests))

    def encode(self, requests: Sequence[EngineRequest]) -> list[EncodedRequest]:
        """The vectors of each request: those it brought, or new ones; the same history is encoded once."""
        if self.cheaper and (chosen := cheap_places(requests)):
            own, cheap = split(requests, chosen)
            return join(chosen, self.encode(own) if own else [], self.cheaper.encode(cheap))
        started = time.perf_counter()
        places: dict[History, int] = {}
        for request in requests:
            if request.vectors is None:
                places.setdefault(request.history, len(places))
        encoded = self.encoder.encode(list(places)) if places else None
        computed = [CachedVectors(v, p) for v, p in zip(*encoded, strict=True)] if encoded else []
        milliseconds = 1e3 * (time.perf_counter() - started)
        return [EncodedRequest(r.vectors or computed[places[r.history]], milliseconds) for r in requests]

    def search(self, requests: Sequence[EngineRequest], encoded: Sequence[EncodedRequest]) -> list[EngineResult]:
        """The merged list of each request from its encoded vectors, all of one plan from one snapshot of the items."""
        if self.cheaper and (places := cheap_places(requests)):
            (own, cheap), (own_encoded, cheap_encoded) = split(requests, places), split(encoded, places)
            return join(places, self.search(own, own_encoded) if own else [], self.cheaper.search(cheap, cheap_encoded))
        # one search has as many vectors for each request: a mixed plan has several, an outcome that is asked for not
        places = asked_places(requests) if len(self.plan.outcomes) > 1 else set[int]()
        if 0 < len(places) < len(requests):
            (own, others), (own_encoded, others_encoded) = split(requests, places), split(encoded, places)
            return join(places, self.search(own, own_encoded), self.search(others, others_encoded))
        started = time.perf_counter()
        plan = replace(self.plan, outcomes=()) if places else self.plan
        finder = Finder.now(self.index, plan, self.categories, self.served)
        vectors = [self._asked_for(r.rules.outcome, e.vectors.vectors) for r, e in zip(requests, encoded, strict=True)]
        asked = [*map(Asked, requests, vectors)]
        hits = finder.find(asked) if any(request.limit for request in requests) else None
        searched = time.perf_counter()
        lists = finder.lists(asked, hits) if hits else [(EMPTY, None)] * len(requests)
        times = {"search": 1e3 * (searched - started), "merge": 1e3 * (time.perf_counter() - searched)}
        # times of the whole batch: each member waited for all of it
        return [
            # whoever asks for vectors alone searches with them: those of the outcome
            EngineResult(
                e.vectors if request.limit else e.vectors._replace(vectors=own),
                merged,
                {"encode": e.encode_ms, **times},
                False,
                finder.number,
                reasons,
            )
            for (request, own), e, (merged, reasons) in zip(asked, encoded, lists, strict=True)
        ]

    def _asked_for(self, outcome: str | None, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(Q, D) the vectors to search with: of the outcome that a request asks for, or of those of the plan."""
        names = [outcome] if outcome is not None else [name for name, _ in self.plan.outcomes]
        if not names:
            return vectors
        if self.heads is None:
            raise ValueError("an engine without heads was asked for an outcome")
        return np.concatenate([self.heads.vectors(name, vectors) for name in names])


def asked_places(requests: Sequence[EngineRequest]) -> set[int]:
    """Places of the requests that ask for an outcome of their own."""
    return {place for place, request in enumerate(requests) if request.rules.outcome is not None}


def cheap_places(requests: Sequence[EngineRequest]) -> set[int]:
    """Places of the requests that the cheaper plan answers."""
    return {place for place, request in enumerate(requests) if request.is_cheap}


def split(members: Sequence[T], places: set[int]) -> tuple[list[T], list[T]]:
    """(the others, those at `places`), both in order."""
    chosen = [member for place, member in enumerate(members) if place in places]
    return [member for place, member in enumerate(members) if place not in places], chosen


def join(places: set[int], others: Sequence[T], chosen: Sequence[T]) -> list[T]:
    """The list that `split` took apart."""
    left, right = iter(others), iter(chosen)
    return [next(right if place in places else left) for place in range(len(others) + len(chosen))]
