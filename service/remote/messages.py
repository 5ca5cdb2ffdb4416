"""The messages between HTTP processes and the engine process: MessagePack of typed structs.

They travel in lists: all that a process has to tell another in one round of its loop. Each struct is tagged, so that a
reader knows it by itself, and checked while it is decoded: torn, unknown or inconsistent bytes raise `BadMessage`,
never anything else.
"""

from typing import TypeVar

import msgspec

from service.engine.releases import ReleaseState, ReloadOutcome, ReloadRequest
from service.errors import RecallError
from service.remote.blocks import AnswerBlock, AskBlock, BadMessage, error_of

T = TypeVar("T")


class EngineRefusal(msgspec.Struct, tag="refusal", array_like=True, frozen=True):
    """The error that answers a message."""

    number: int
    code: str
    message: str

    @classmethod
    def of(cls, number: int, error: RecallError) -> "EngineRefusal":
        return cls(number, error.code, str(error))

    def error(self) -> RecallError:
        return error_of(self.code, self.message)


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
    """Nobody waits any more for the answer to one `AskBlock`."""

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
    AskBlock
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
    | AnswerBlock
    | EngineRefusal
    | AllMetrics
    | CollectMetrics
    | TellReleases
    | ReleasesChanged
    | Reloaded
    | PrepareRelease
)
encode = msgspec.msgpack.Encoder().encode  # of a list: all that one process tells another in one round of its loop
_from_worker: "msgspec.msgpack.Decoder[list[FromWorker]]" = msgspec.msgpack.Decoder(list[FromWorker])
_from_engine: "msgspec.msgpack.Decoder[list[FromEngine]]" = msgspec.msgpack.Decoder(list[FromEngine])


def decode_from_worker(data: bytes) -> list[FromWorker]:
    """Raises BadMessage."""
    return _decode(_from_worker, data)


def decode_from_engine(data: bytes) -> list[FromEngine]:
    """Raises BadMessage."""
    return _decode(_from_engine, data)


def _decode(decoder: "msgspec.msgpack.Decoder[T]", data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadMessage(f"a message of {len(data)} bytes cannot be read: {error}") from error
