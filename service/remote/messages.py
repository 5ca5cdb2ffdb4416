"""The messages between HTTP processes and the engine process: MessagePack of typed structs, arrays as bytes.

Each struct is tagged, so that a reader knows it by itself, and checked while it is decoded: torn, unknown or
inconsistent bytes raise `BadMessage`, never anything else. A deadline travels as the seconds that are left, since the
clocks of two processes need not agree.
"""

import time
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from model.merging import Merged
from model.records import History
from service.engine.messages import EngineRequest, EngineResult
from service.engine.releases import ReleaseState, ReloadOutcome, ReloadRequest
from service.errors import (
    DeadlineExceeded,
    EngineFailed,
    Overloaded,
    RecallError,
    ReloadRefused,
    ReloadUnderWay,
    StaleRelease,
    UnknownArm,
)
from service.stores.vector_codec import CachedVectors

KINDS = (Overloaded, DeadlineExceeded, EngineFailed, StaleRelease, UnknownArm, ReloadUnderWay, ReloadRefused)
ERRORS: dict[str, type[RecallError]] = {kind.code: kind for kind in KINDS}
T = TypeVar("T")


class BadMessage(Exception):  # noqa: N818 - named for what it says; it never reaches a client
    """A message between processes cannot be read; it is dropped and counted."""


class AskEngine(msgspec.Struct, tag="ask", array_like=True, frozen=True):
    """A request of an HTTP process for one arm, in rows of one bundle's catalogue."""

    number: int
    arm: str
    bundle: str  # that the rows belong to; the engine computes for no other
    items: tuple[int, ...]
    user: int
    limit: int
    excluded: frozenset[int] | None  # None = the history's own items
    left_s: float | None  # until the deadline; None = there is none
    key: bytes | None
    allowed: bytes | None = None  # (N,) booleans, eight a byte
    num_items: int = 0  # N where there is a filter
    is_bulk: bool = False

    @classmethod
    def of(cls, number: int, arm: str, bundle: str, request: EngineRequest) -> "AskEngine":
        history, left = request.history, request.deadline - time.monotonic()
        return cls(
            number,
            arm,
            bundle,
            history.items,
            history.user,
            request.limit,
            None if request.excluded is history.items else frozenset(request.excluded),
            None if left == float("inf") else left,
            request.key,
            None if request.allowed is None else np.packbits(request.allowed).tobytes(),
            0 if request.allowed is None else len(request.allowed),
            request.is_bulk,
        )

    def request(self) -> EngineRequest:
        return EngineRequest(
            History(self.items, self.user),
            self.limit,
            self.items if self.excluded is None else self.excluded,
            deadline=float("inf") if self.left_s is None else time.monotonic() + self.left_s,
            key=self.key,
            allowed=None if self.allowed is None else self._filter(self.allowed),
            is_bulk=self.is_bulk,
        )

    def _filter(self, packed: bytes) -> NDArray[np.bool_]:
        return np.unpackbits(np.frombuffer(packed, np.uint8), count=self.num_items).view(np.bool_)


class EngineAnswer(msgspec.Struct, tag="answer", array_like=True, frozen=True):
    """The result of one `AskEngine`."""

    number: int
    num_queries: int
    vectors: bytes  # (Q, D) float32
    prompts: bytes  # (P,) int64
    rows: bytes  # (K,) int64
    scores: bytes  # (K,) float32
    sources: bytes  # (K,) int64
    timings_ms: dict[str, float]
    known: bool
    is_cheap: bool = False

    @classmethod
    def of(cls, number: int, result: EngineResult) -> "EngineAnswer":
        vectors, merged = result.vectors, result.merged
        return cls(
            number,
            len(vectors.vectors),
            vectors.vectors.astype("<f4", copy=False).tobytes(),
            vectors.prompts.astype("<i8", copy=False).tobytes(),
            merged.rows.astype("<i8", copy=False).tobytes(),
            merged.scores.astype("<f4", copy=False).tobytes(),
            merged.sources.astype("<i8", copy=False).tobytes(),
            result.timings_ms,
            result.known,
            result.is_cheap,
        )

    def result(self) -> EngineResult:
        """Raises BadMessage where the bytes are not the arrays they should be."""
        try:
            vectors = np.frombuffer(self.vectors, "<f4").reshape(self.num_queries, -1)
            merged = Merged(_integers(self.rows), np.frombuffer(self.scores, "<f4"), _integers(self.sources))
            prompts = _integers(self.prompts)
        except ValueError as error:
            raise BadMessage(f"an answer holds no arrays: {error}") from error
        if not len(merged.rows) == len(merged.scores) == len(merged.sources):
            raise BadMessage("an answer holds lists of different length")
        return EngineResult(CachedVectors(vectors, prompts), merged, self.timings_ms, self.known, self.is_cheap)


class EngineRefusal(msgspec.Struct, tag="refusal", array_like=True, frozen=True):
    """The error that answers one `AskEngine`."""

    number: int
    code: str
    message: str

    def error(self) -> RecallError:
        return ERRORS.get(self.code, EngineFailed)(self.message)


class WorkerReady(msgspec.Struct, tag="ready", array_like=True, frozen=True):
    """An HTTP process answers requests from now on."""


class AskMetrics(msgspec.Struct, tag="ask_metrics", array_like=True, frozen=True):
    """An HTTP process wants the metrics of all processes."""

    number: int


class AllMetrics(msgspec.Struct, tag="all_metrics", array_like=True, frozen=True):
    """The answer to one `AskMetrics`: a text of each process."""

    number: int
    texts: list[str]


class ForgetAsk(msgspec.Struct, tag="forget", array_like=True, frozen=True):
    """Nobody waits any more for the answer to one `AskEngine`."""

    number: int


class AskAlive(msgspec.Struct, tag="ask_alive", array_like=True, frozen=True):
    """An HTTP process wants to hear that the engine process works."""

    number: int


class Alive(msgspec.Struct, tag="alive", array_like=True, frozen=True):
    """The answer to one `AskAlive`."""

    number: int
    incarnation: str  # another one: the process was started anew, and knows nothing of what was asked before
    problems: dict[str, str]  # by arm: why nothing is computed for it now


class CollectMetrics(msgspec.Struct, tag="collect", array_like=True, frozen=True):
    """The engine process wants the metrics of an HTTP process."""

    number: int


class WorkerMetrics(msgspec.Struct, tag="collected", array_like=True, frozen=True):
    """The answer to one `CollectMetrics`."""

    number: int
    text: str


class AskReleases(msgspec.Struct, tag="ask_releases", array_like=True, frozen=True):
    """An HTTP process wants to know what is served."""

    number: int


class AskReload(msgspec.Struct, tag="ask_reload", array_like=True, frozen=True):
    """An HTTP process passes on the wish for another bundle."""

    number: int
    wanted: ReloadRequest


class Reloaded(msgspec.Struct, tag="reloaded", array_like=True, frozen=True):
    """The good answer to one `AskReload`."""

    number: int
    outcome: ReloadOutcome


class TellReleases(msgspec.Struct, tag="releases", array_like=True, frozen=True):
    """The answer to one `AskReleases`."""

    number: int
    states: tuple[ReleaseState, ...]


class ReleasesChanged(msgspec.Struct, tag="changed", array_like=True, frozen=True):
    """The engine process tells every HTTP process what it serves now."""

    states: tuple[ReleaseState, ...]


class PrepareRelease(msgspec.Struct, tag="prepare", array_like=True, frozen=True):
    """The engine process has proven a bundle and wants an HTTP process to know its ids before it serves it."""

    number: int
    coming: ReleaseState


class ReleasePrepared(msgspec.Struct, tag="prepared", array_like=True, frozen=True):
    """The answer to one `PrepareRelease`."""

    number: int
    problem: str | None  # None = it could be served at once


FromWorker = (
    AskEngine
    | ForgetAsk
    | AskAlive
    | WorkerReady
    | AskMetrics
    | WorkerMetrics
    | AskReleases
    | AskReload
    | ReleasePrepared
)
FromEngine = (
    Alive
    | EngineAnswer
    | EngineRefusal
    | AllMetrics
    | CollectMetrics
    | TellReleases
    | ReleasesChanged
    | Reloaded
    | PrepareRelease
)
encode = msgspec.msgpack.Encoder().encode
_from_worker: "msgspec.msgpack.Decoder[FromWorker]" = msgspec.msgpack.Decoder(FromWorker)
_from_engine: "msgspec.msgpack.Decoder[FromEngine]" = msgspec.msgpack.Decoder(FromEngine)


def decode_from_worker(data: bytes) -> FromWorker:
    """Raises BadMessage."""
    return _decode(_from_worker, data)


def decode_from_engine(data: bytes) -> FromEngine:
    """Raises BadMessage."""
    return _decode(_from_engine, data)


def _decode(decoder: "msgspec.msgpack.Decoder[T]", data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"a message of {len(data)} bytes cannot be read: {error}") from error


def _integers(data: bytes) -> NDArray[np.int64]:
    return np.frombuffer(data, "<i8")
