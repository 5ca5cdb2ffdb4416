"""Blocks: the requests of many users for one arm as arrays, and their answers as arrays; one piece of work.

An engine whose computation takes blocks answers them without an object a user. Others split them into requests, and put
the results together again (`Gathering`). Either way the lists are those of the requests asked one by one.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.catalogue import ExternalId
from model.columns import Columns
from model.merging import Merged
from model.rules import NO_RULES, ListRules
from service.engine.messages import EngineRequest, EngineResult
from service.errors import DeadlineExceeded, RecallError
from service.lists.reasons import Reasons
from service.stores.vector_codec import CachedVectors

T = TypeVar("T")
R_contra = TypeVar("R_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class RequestBlock:
    """Requests of B users."""

    columns: Columns
    deadline: float = float("inf")  # time.monotonic()
    keys: Sequence[bytes] = ()  # (B,) of the vectors in the cache; none = not asked, not kept
    rules: ListRules = NO_RULES  # as in EngineRequest, for all users, as are the next two
    min_catalogue: int = 0
    explain: bool = False
    unknown: Sequence[Sequence[ExternalId]] = ()  # (B,) as in EngineRequest
    is_bulk: bool = False  # as in EngineRequest, for all users

    @classmethod
    def of(cls, request: EngineRequest) -> "RequestBlock":
        """A single request."""
        columns = Columns.of([request.history], [request.limit], [request.excluded])
        keys = () if request.key is None else (request.key,)
        told = request.deadline, keys, request.rules, request.min_catalogue, request.explain
        return cls(columns, *told, is_bulk=request.is_bulk)

    @property
    def is_plain(self) -> bool:
        """True when nothing is asked beside the model's own lists."""
        return self.rules == NO_RULES and not self.explain

    @property
    def size(self) -> int:
        """B."""
        return len(self.columns.lengths)

    @property
    def weight(self) -> int:
        """Tokens it costs to compute."""
        return self.size + len(self.columns.items)

    def part(self, users: slice) -> "RequestBlock":
        """A run of its users."""
        return replace(self, columns=self.columns.part(users), keys=self.keys[users], unknown=self.unknown[users])

    def parts(self, size: int) -> "list[RequestBlock]":
        """Itself in blocks of at most `size` users."""
        return [self.part(slice(start, start + size)) for start in range(0, self.size, size)]

    def requests(self) -> list[EngineRequest]:
        """The same as records."""
        keys: Sequence[bytes | None] = self.keys or [None] * self.size
        users = zip(self.columns.records(), keys, self.unknown or [()] * self.size, strict=True)
        return [
            EngineRequest(
                *user,
                deadline=self.deadline,
                key=key,
                rules=self.rules,
                min_catalogue=self.min_catalogue,
                explain=self.explain,
                unknown=unknown,
                is_bulk=self.is_bulk,
            )
            for user, key, unknown in users
        ]


class ResultBlock(NamedTuple):
    """The answers to a block, in its order. The narrow types hold every row and source, and travel as they are."""

    lengths: NDArray[np.int32]  # (B,) of the lists
    rows: NDArray[np.int32]  # (B, L) item rows, best first; what stands behind a list's end means nothing
    scores: NDArray[np.float32]  # (B, L)
    sources: NDArray[np.int16]  # (B, L) numbers of the query vectors
    vectors: NDArray[np.float32]  # (B, Q, D)
    prompts: NDArray[np.int32]  # (B, P) generated item rows
    known: NDArray[np.bool_]  # (B,) vectors that were not computed for this
    timings_ms: Mapping[str, float]
    errors: Mapping[int, RecallError] = {}  # by place: the reason why there is no answer
    catalogue: int = 0  # the last change of the catalogue that all of its lists know
    reasons: Sequence[Reasons | None] = ()  # (B,), or none
    cheap: Sequence[bool] = ()  # (B,) of the cheaper plan, or none

    @classmethod
    def of(cls, outcomes: Sequence[EngineResult | RecallError]) -> "ResultBlock":
        """From an outcome a user."""
        results = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, EngineResult)}
        errors = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, RecallError)}
        count, some = len(outcomes), next(iter(results.values()), None)
        lengths = np.array([len(o.merged.rows) if isinstance(o, EngineResult) else 0 for o in outcomes], dtype=np.int32)
        # as wide as the longest list; lengths say where the others end
        shape = (count, int(lengths.max(initial=0)))
        vectors = np.zeros((count, *(some.vectors.vectors.shape if some else (0, 0))), dtype=np.float32)
        prompts = np.zeros((count, len(some.vectors.prompts) if some else 0), dtype=np.int32)
        rows, scores, sources = (np.zeros(shape, dtype) for dtype in (np.int32, np.float32, np.int16))
        for place, result in results.items():
            length = lengths[place]
            rows[place, :length], scores[place, :length], sources[place, :length] = result.merged
            vectors[place], prompts[place] = result.vectors
        known = np.array([place in results and results[place].known for place in range(count)], dtype=np.bool_)
        # the list that knows least speaks for all: a caller who demands a change must not be told of a later one
        number = min((result.catalogue for result in results.values()), default=0)
        reasons = tuple(results[place].reasons if place in results else None for place in range(count))
        cheap = [place in results and results[place].is_cheap for place in range(count)]
        timings_ms, is_any = some.timings_ms if some else {}, any(cheap)
        told = timings_ms, errors, number, reasons if any(reasons) else (), cheap if is_any else ()
        return cls(lengths, rows, scores, sources, vectors, prompts, known, *told)

    def part(self, users: slice) -> "ResultBlock":
        """A run of users that all have answers: views."""
        # the first seven fields are arrays over users
        columns = [column[users] for column in self[:7]]
        told = self.catalogue, self.reasons[users], self.cheap[users]
        return ResultBlock._make((*columns, self.timings_ms, {}, *told))

    def outcomes(self) -> list[EngineResult | RecallError]:
        """The outcome of each user."""
        # once for all, not once a user
        rows, sources, prompts = (c.astype(np.int64) for c in (self.rows, self.sources, self.prompts))
        cut, timings_ms = self.lengths.tolist(), self.timings_ms
        reasons = self.reasons or [None] * len(cut)
        told = zip(self.known.tolist(), repeat(self.catalogue), reasons, self.cheap or [False] * len(cut), strict=False)
        users = zip(cut, rows, self.scores, sources, self.vectors, prompts, told, strict=True)
        answers = [
            EngineResult(CachedVectors(v, p), Merged(r[:n], s[:n], o[:n]), timings_ms, *own)
            for n, r, s, o, v, p, own in users
        ]
        return [self.errors.get(place, answer) for place, answer in enumerate(answers)]

    def answer(self, place: int) -> EngineResult:
        """The answer of one user that has one."""
        prompts = self.prompts[place].astype(np.int64, copy=False)
        length = self.lengths[place]
        rows, sources = (column[place, :length].astype(np.int64, copy=False) for column in (self.rows, self.sources))
        merged, vectors = (
            Merged(rows, self.scores[place, :length], sources),
            CachedVectors(self.vectors[place], prompts),
        )
        why, is_cheap = self.reasons[place] if self.reasons else None, bool(self.cheap and self.cheap[place])
        return EngineResult(vectors, merged, self.timings_ms, bool(self.known[place]), self.catalogue, why, is_cheap)

    def told(self, queue_ms: float, known: bool, is_cheap: bool = False) -> "ResultBlock":  # noqa: ARG002  (each user has its own)
        """The same with what the queue knows of it."""
        return self._replace(timings_ms={**self.timings_ms, "queue": queue_ms})


class Receiver(Protocol[R_contra]):
    """Takes the outcome of a piece of work, once; a future does."""

    def done(self) -> bool:
        """Tells if nobody waits for it any more."""
        ...

    def set_result(self, result: R_contra, /) -> None: ...
    def set_exception(self, error: RecallError, /) -> None: ...


class Gathering:
    """The outcomes of a block's parts, put together once the last of them is there."""

    def __init__(self, sizes: Sequence[int], answer: Receiver[ResultBlock]) -> None:
        """sizes: users of each part."""
        self._sizes, self._answer = sizes, answer
        self._outcomes: dict[int, EngineResult | ResultBlock | RecallError] = {}

    def done(self) -> bool:
        return self._answer.done()

    def add(self, number: int, outcome: EngineResult | ResultBlock | RecallError) -> None:
        """Takes the outcome of one part."""
        self._outcomes[number] = outcome
        # whoever asked may have left, or its deadline may have passed, before the last part came
        if len(self._outcomes) == len(self._sizes) and not self._answer.done():
            self._answer.set_result(ResultBlock.of([*self._users()]))

    def _users(self) -> Iterator[EngineResult | RecallError]:
        for number, size in enumerate(self._sizes):
            outcome = self._outcomes[number]
            if isinstance(outcome, ResultBlock):
                yield from outcome.outcomes()
            else:
                # a part that failed whole failed for each of its users
                yield from repeat(outcome, size)


@dataclass(frozen=True, slots=True)
class PartReceiver:
    """Takes the outcome of one part of a block."""

    gathering: Gathering
    number: int

    def done(self) -> bool:
        return self.gathering.done()

    def set_result(self, result: EngineResult | ResultBlock, /) -> None:
        self.gathering.add(self.number, result)

    def set_exception(self, error: RecallError, /) -> None:
        self.gathering.add(self.number, error)


Work = EngineRequest | RequestBlock


def split(block: RequestBlock, size: int, answer: Receiver[ResultBlock]) -> "list[tuple[Work, PartReceiver]]":
    """The parts of a block, each with the receiver of its outcome: blocks of at most `size` users; 0 = requests."""
    parts: Sequence[Work] = block.parts(size) if size else block.requests()
    gathering = Gathering([part.size for part in parts], answer)
    return [(part, PartReceiver(gathering, number)) for number, part in enumerate(parts)]


async def until_deadline(answer: "asyncio.Future[T]", deadline: float) -> T:
    """The answer. Raises DeadlineExceeded once the deadline has passed, in time.monotonic()."""
    if deadline == float("inf"):
        return await answer

    def expire() -> None:
        if not answer.done():
            answer.set_exception(DeadlineExceeded("the deadline passed before the answer was ready"))

    # the loop's clock is time.monotonic; a handle costs a tenth of asyncio.timeout
    timer = asyncio.get_running_loop().call_at(deadline, expire)
    try:
        return await answer
    finally:
        timer.cancel()
