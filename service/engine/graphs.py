"""Batches that a card answers whole, in one graph; what it refuses and what is in doubt, the general path answers.

`GraphCompute` stands where `BatchCompute` stands, and is made only where a proof at start allows it (capture.py).
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from model.device.layout import Answers, Columns
from model.device.recall import DeviceRecall
from model.merging import Merged
from service.engine.compute import BatchCompute
from service.engine.messages import EngineRequest, EngineResult, Started
from service.stores.vector_codec import CachedVectors


def columns_of(requests: Sequence[EngineRequest]) -> Columns:
    """Requests as the columns that a device reads."""
    return Columns(
        [request.history for request in requests],
        [request.limit for request in requests],
        [request.excluded for request in requests],
    )


@dataclass(frozen=True)
class GraphCompute:
    """Encode, search and merge in one launch: `encode` starts it, `search` waits for it."""

    recall: DeviceRecall
    general: BatchCompute  # the definition; asked by the thread that searches
    refused: Counter[str] = field(default_factory=Counter)  # requests of the general path, by reason

    @property
    def max_batch_tokens(self) -> int:
        return self.recall.max_tokens

    @property
    def has_cheaper(self) -> bool:
        """False: a card's graph takes one plan, and milliseconds."""
        return False

    def run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """The results in order; one part is filled in while the card computes the one before."""
        size, results = self.recall.max_batch, list[EngineResult]()
        under_way: tuple[Sequence[EngineRequest], Started] | None = None
        for start in range(0, len(requests), size):
            part = requests[start : start + size]
            before, under_way = under_way, (part, self.encode(part))
            results += self.search(*before) if before else []
        return results + (self.search(*under_way) if under_way else [])

    def encode(self, requests: Sequence[EngineRequest]) -> Started:
        """Returns while the card works. Vectors that a request has brought are computed again: that costs less."""
        since, columns = time.perf_counter(), columns_of(requests)
        is_filtered = any(request.allowed is not None for request in requests)
        if not is_filtered and self.recall.takes_all(max(columns.limits), max(map(len, columns.excluded))):
            return Started(range(len(requests)), self.recall.start(columns), since)
        reasons = [self._reason(request) for request in requests]
        self.refused.update(filter(None, reasons))
        places = [place for place, reason in enumerate(reasons) if not reason]
        own = [requests[place] for place in places]
        return Started(places, self.recall.start(columns_of(own)) if own else None, since)

    def _reason(self, request: EngineRequest) -> str:
        return self.recall.refuses(request.limit, request.excluded) if request.allowed is None else "filtered"

    def search(self, requests: Sequence[EngineRequest], started: Started) -> list[EngineResult]:
        """Waits for the card; `timings_ms` are those of the whole batch, all of them under `encode`."""
        if not started.ticket:
            return self.general.run(requests)
        answers = self.recall.finish(started.ticket)
        milliseconds = 1e3 * (time.perf_counter() - started.since)
        own = results_of(answers, [requests[place].limit for place in started.places], milliseconds)
        if len(own) == len(requests) and not answers.doubtful.any():
            return own
        sure = dict(zip(started.places, own, strict=True))
        for number in np.flatnonzero(answers.doubtful).tolist():
            self.refused["in_doubt"] += 1
            del sure[started.places[number]]
        left = [place for place in range(len(requests)) if place not in sure]
        sure |= zip(left, self.general.run([requests[place] for place in left]), strict=True)
        return [sure[place] for place in range(len(requests))]


def results_of(answers: Answers, limits: Sequence[int], milliseconds: float) -> list[EngineResult]:
    """Answers as records; each list ends at its limit."""
    lists: Iterator[Merged] = map(Merged, answers.rows, answers.scores, answers.sources.astype(np.int64))
    if min(limits) < answers.rows.shape[1]:
        lists = map(_cut, lists, limits)
    vectors = map(CachedVectors, answers.vectors, answers.prompts)
    return [
        EngineResult(own, merged, {"encode": milliseconds, "search": 0.0, "merge": 0.0})
        for own, merged in zip(vectors, lists, strict=True)
    ]


def _cut(merged: Merged, limit: int) -> Merged:
    return Merged(merged.rows[:limit], merged.scores[:limit], merged.sources[:limit])


def answers_of(results: Sequence[EngineResult], width: int) -> Answers:
    """Results as arrays: the lists that a device's answers are compared with."""
    count = len(results)
    rows, sources = np.zeros((count, width), dtype=np.int64), np.zeros((count, width), dtype=np.int32)
    scores = np.zeros((count, width), dtype=np.float32)
    for place, result in enumerate(results):
        length = len(result.merged.rows)
        rows[place, :length], scores[place, :length] = result.merged.rows, result.merged.scores
        sources[place, :length] = result.merged.sources
    vectors = np.stack([result.vectors.vectors for result in results])
    prompts = np.stack([result.vectors.prompts for result in results])
    return Answers(rows, prompts, scores, vectors, sources, np.zeros(count, dtype=np.int32))
