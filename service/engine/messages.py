"""What goes into an engine and what comes out of it: records between the spine and the engine's stages."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from index.base import Exclusions
from model.merging import Merged
from model.records import History
from service.stores.vector_codec import CachedVectors


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What one request wants of an arm."""

    history: History
    limit: int  # 0 = vectors alone, no search
    excluded: Collection[int] = frozenset()  # item rows that may not appear
    vectors: CachedVectors | None = None  # known already: search only
    deadline: float = float("inf")  # time.monotonic()
    key: bytes | None = None  # of the vectors in the cache; None = not asked, not kept

    @property
    def weight(self) -> int:
        """Tokens it costs to compute."""
        return 1 + (0 if self.vectors else len(self.history.items))

    def with_vectors(self, vectors: CachedVectors) -> "EngineRequest":
        return replace(self, vectors=vectors)


@dataclass(frozen=True, slots=True)
class EngineResult:
    """An arm's answer, still in rows."""

    vectors: CachedVectors
    merged: Merged
    timings_ms: dict[str, float]
    known: bool = False  # the vectors were not computed for this


@dataclass(frozen=True, slots=True)
class EngineLimits:
    max_waiting: int = 2048
    max_batch_tokens: int = 4096
    max_batch: int = 256


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A question's vectors between the two threads."""

    vectors: CachedVectors
    encode_ms: float  # of its batch


EMPTY = Merged(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64))


def exclusions(requests: Sequence[EngineRequest], num_queries: int) -> Exclusions:
    """What each question excludes, for each of its query vectors."""
    sizes = [len(request.excluded) for request in requests for _ in range(num_queries)]
    rows = chain.from_iterable(request.excluded for request in requests for _ in range(num_queries))
    total = sum(sizes)
    return Exclusions(np.repeat(np.arange(len(sizes)), sizes), np.fromiter(rows, np.int64, total))
