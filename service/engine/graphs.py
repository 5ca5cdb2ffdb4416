"""Batches that a card answers whole, in one graph; what it refuses and what is in doubt, the general path answers.

`GraphCompute` stands where `BatchCompute` stands, and is made only where a proof at start allows it (`with_graphs`).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from index.exact import ExactIndex
from model.columns import Columns
from model.device.layout import Answers
from model.device.recall import DeviceRecall
from model.encoder import UserEncoder
from model.kernels import available
from model.merging import Merged
from service.engine.blocks import RequestBlock, ResultBlock, Work
from service.engine.compute import BatchCompute
from service.engine.messages import EngineRequest, EngineResult, Started
from service.lists.reasons import Reasons
from service.stores.vector_codec import CachedVectors

log = structlog.get_logger()
SIZES = (256, 128, 64, 32, 8, 1)  # users of a batch, the largest first: graphs share memory best so
Places = NDArray[np.int64]


def columns_of(work: Sequence[Work]) -> Columns:
    """Work as the columns that a device reads; an object a user is read only for requests, not for blocks."""
    requests = [request for request in work if isinstance(request, EngineRequest)]
    if len(requests) == len(work):
        return _columns(requests)
    if not requests:
        return Columns.join([block.columns for block in work if isinstance(block, RequestBlock)])
    return Columns.join([w.columns if isinstance(w, RequestBlock) else _columns([w]) for w in work])


def _columns(requests: Sequence[EngineRequest]) -> Columns:
    return Columns.of(
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

    reuses_vectors: ClassVar[bool] = False  # to compute them again costs less than to bring them to the card

    @property
    def max_batch_tokens(self) -> int:
        return self.recall.max_tokens

    @property
    def has_cheaper(self) -> bool:
        """False: a card's graph takes one plan, and milliseconds."""
        return False

    @property
    def max_block(self) -> int:
        """Users of a block that it takes as one."""
        return self.recall.max_batch

    def run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """The results in order; one part is filled in while the card computes the one before."""
        size = self.recall.max_batch
        parts = (requests[start : start + size] for start in range(0, len(requests), size))
        return [result for batch in self._in_turn(parts) for result in batch.results()]

    def run_blocks(self, blocks: Iterable[RequestBlock]) -> Iterator[ResultBlock]:
        """The same for blocks of at most `max_block` users, a batch each."""
        return (batch.block() for batch in self._in_turn([block] for block in blocks))

    def _in_turn(self, batches: Iterable[Sequence[Work]]) -> "Iterator[AnsweredBatch]":
        under_way: tuple[Sequence[Work], Started] | None = None
        for batch in batches:
            before, under_way = under_way, (batch, self.encode(batch))
            if before:
                yield self._finish(*before)
        if under_way:
            yield self._finish(*under_way)

    def encode(self, work: Sequence[Work]) -> Started:
        """Returns while the card works. `work` has at most as many users as the largest batch."""
        since, columns = time.perf_counter(), columns_of(work)
        is_filtered = self._is_changed or not all(piece.is_plain for piece in work)
        num_excluded = columns.num_excluded
        # the largest of the batch fit: nobody has to be looked at one by one
        if not is_filtered and self.recall.takes_all(int(columns.limits.max()), int(num_excluded.max())):
            return Started(range(columns.size), columns.limits, self.recall.start(columns), since)
        general = [self._reason(piece) for piece in work for _ in range(piece.size)]
        users = zip(general, columns.limits.tolist(), num_excluded.tolist(), strict=True)
        reasons = [own or self.recall.refuses(limit, most) for own, limit, most in users]
        self.refused.update(filter(None, reasons))
        places = [place for place, reason in enumerate(reasons) if not reason]
        ticket = self.recall.start(columns.take(places)) if places else None
        return Started(places, columns.limits, ticket, since)

    @property
    def _is_changed(self) -> bool:
        """True when items have come or gone since the bundle: the card knows the bundle's alone."""
        served = self.general.served
        return served is not None and served.live.snapshot.is_changed

    def _reason(self, piece: Work) -> str:
        """The reason why a piece of work takes the general path whatever its size; empty = there is none."""
        if self._is_changed:
            return "catalogue_changed"
        return "" if piece.is_plain else "filtered"

    def search(self, work: Sequence[Work], started: Started) -> Sequence[EngineResult | ResultBlock]:
        """Waits for the card; `timings_ms` are those of the whole batch, all of them under `encode`."""
        batch = self._finish(work, started)
        if all(isinstance(piece, EngineRequest) for piece in work):
            return batch.results()
        block, end, parts = batch.block(), 0, list[EngineResult | ResultBlock]()
        for piece in work:
            start, end = end, end + piece.size
            own = block if piece.size == len(block.lengths) else block.part(slice(start, end))
            parts.append(own if isinstance(piece, RequestBlock) else own.answer(0))
        return parts

    def _finish(self, work: Sequence[Work], started: Started) -> "AnsweredBatch":
        answers = self.recall.finish(started.ticket) if started.ticket else None
        milliseconds = 1e3 * (time.perf_counter() - started.since)
        timings_ms = {"encode": milliseconds, "search": 0.0, "merge": 0.0}
        num_users, places = len(started.limits), np.array(started.places, dtype=np.int64)
        if answers and len(places) == num_users and not answers.doubtful.any():
            return AnsweredBatch(answers, started.limits, timings_ms)
        requests = [r for piece in work for r in ([piece] if isinstance(piece, EngineRequest) else piece.requests())]
        if not answers:
            return AnsweredBatch.of(self.general.run(requests))
        sure = answers.doubtful == 0
        if not sure.all():
            self.refused["in_doubt"] += int(np.count_nonzero(~sure))
        # users whom the card was not asked for, and those whose answer it doubts
        left = np.setdiff1d(np.arange(num_users), places[sure])
        general = AnsweredBatch.of(self.general.run([requests[place] for place in left.tolist()]))
        own = AnsweredBatch(answers, started.limits[places], timings_ms)
        return own.at(sure).merged_with(general, places[sure], left)


class AnsweredBatch(NamedTuple):
    """The answers of one batch as arrays, and what is made of them."""

    answers: Answers
    lengths: NDArray[np.integer[Any]]  # (B,) of the lists
    timings_ms: Mapping[str, float]
    # by place: the catalogue's number and the reasons that the general path gave; the card knows neither
    told: Mapping[int, tuple[int, Reasons | None]] = {}

    @classmethod
    def of(cls, results: Sequence[EngineResult]) -> "AnsweredBatch":
        lengths = np.array([len(result.merged.rows) for result in results])
        told = {
            place: (own.catalogue, own.reasons) for place, own in enumerate(results) if own.catalogue or own.reasons
        }
        return cls(answers_of(results, int(lengths.max())), lengths, results[0].timings_ms, told)

    def at(self, users: NDArray[np.bool_]) -> "AnsweredBatch":
        answers = Answers._make(column[users] for column in self.answers)
        return AnsweredBatch(answers, self.lengths[users], self.timings_ms)

    def merged_with(self, other: "AnsweredBatch", places: Places, others: Places) -> "AnsweredBatch":
        """A batch of both: its own users stand at `places`, those of `other` at `others`."""

        def both(mine: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
            shape = np.maximum(mine.shape, theirs.shape)
            shape[0] = len(places) + len(others)
            whole = np.zeros(shape, dtype=mine.dtype)
            # lists of the two may differ in width
            for rows, part in ((places, mine), (others, theirs)):
                whole[(slice(None), *map(slice, part.shape[1:]))][rows] = part
            return whole

        pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]] = zip(self.answers, other.answers, strict=True)
        answers = Answers._make(both(*pair) for pair in pairs)
        told = {int(others[place]): own for place, own in other.told.items()}
        return AnsweredBatch(answers, both(self.lengths, other.lengths), self.timings_ms, told)

    def results(self) -> list[EngineResult]:
        """A record a user; all are views of the same arrays, and share the times."""
        rows, prompts, scores, vectors, sources, _ = self.answers
        # named tuples made by loops of C: three calls a user by name take half as long again
        make = cast(Callable[..., Any], tuple.__new__)
        lists: Iterator[Merged] = map(make, repeat(Merged), zip(rows, scores, sources.astype(np.int64), strict=True))
        if self.lengths.min(initial=rows.shape[1]) < rows.shape[1]:
            lists = map(_cut, lists, self.lengths.tolist())
        own = map(make, repeat(CachedVectors), zip(vectors, prompts, strict=True))
        users = zip(own, lists, repeat(self.timings_ms), *map(repeat, (False, 0, None, False)), strict=False)
        results: list[EngineResult] = [*map(make, repeat(EngineResult), users)]
        for place, (catalogue, why) in self.told.items():
            results[place] = results[place]._replace(catalogue=catalogue, reasons=why)
        return results

    def block(self) -> ResultBlock:
        """All users as one block."""
        rows, prompts, scores, vectors, sources, _ = self.answers
        lengths, known = self.lengths.astype(np.int32), np.zeros(len(self.lengths), dtype=np.bool_)
        narrow = rows.astype(np.int32), scores, sources.astype(np.int16), vectors, prompts.astype(np.int32)
        catalogue = min((number for number, _ in self.told.values()), default=0)
        why = [self.told.get(place, (0, None))[1] for place in range(len(lengths))]
        return ResultBlock(lengths, *narrow, known, self.timings_ms, {}, catalogue, why if any(why) else ())


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


def with_graphs(general: BatchCompute, sizes: Sequence[int] = SIZES) -> BatchCompute | GraphCompute:
    """The same computation in graphs, proven against it as it is; itself where there are none, and the log says why."""
    encoder, index = general.encoder, general.index
    # without a log line: on a CPU nobody expects graphs
    if not isinstance(encoder, UserEncoder) or (encoder.device.type == "cpu" and not available("cpu")):
        return general
    if not isinstance(index, ExactIndex):
        log.info("graphs", chosen=False, reason=f"the index is {index.spec}; graphs search exactly")
        return general
    if not available(encoder.device.type):
        log.info("graphs", chosen=False, reason=f"Triton has no kernels for {encoder.device.type} here")
        return general
    from model.device.prepare import prepare  # noqa: PLC0415  (needs Triton)

    def answer(columns: Columns) -> Answers:
        requests = [EngineRequest(*user) for user in columns.records()]
        return answers_of(general.run(requests), int(columns.limits.max()))

    prepared = prepare(encoder.network, general.plan, index.table, answer, sizes)
    log.info(
        "graphs",
        chosen=prepared.recall is not None,
        reason=prepared.reason,
        same_lists=prepared.same_lists,
        seconds=round(prepared.seconds, 1),
        device=torch.cuda.get_device_name() if encoder.device.type == "cuda" else encoder.device.type,
    )
    return GraphCompute(prepared.recall, general) if prepared.recall else general
