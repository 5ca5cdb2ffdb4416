"""The seams of the engine: who may be asked for an arm's answers, and who hears of the work.

Knows records only. An engine of this process, of another process or of another machine satisfies `EngineClient`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from service.engine.blocks import RequestBlock, ResultBlock
from service.engine.messages import EngineRequest, EngineResult


class EngineClient(Protocol):
    """Computes answers for one arm; service/engine/engine.py does it here, service/remote/engine.py elsewhere."""

    @property
    def last_batch_at(self) -> float:
        """time.monotonic() when a batch was last answered; -inf before the first."""

    @property
    def problem(self) -> str | None:
        """The reason why nothing is computed now; None where the engine works, as far as anybody has seen."""

    async def ask(self, request: EngineRequest) -> EngineResult:
        """Raises Overloaded, DeadlineExceeded or EngineFailed. Vectors may be left out where a list was asked for."""

    async def ask_block(self, block: RequestBlock) -> ResultBlock:
        """The same for a block; what befell some users alone stands in its `errors`."""

    async def close(self) -> None:
        """Fails whoever still waits and frees what the engine holds."""


class DropReason(StrEnum):
    """The reason why work was not done, or done for nobody; the label of the counter of drops."""

    QUEUE_FULL = "queue_full"
    DEADLINE = "deadline"
    CLIENT_GONE = "client_gone"
    LATE = "late"
    ENGINE_FAILED = "engine_failed"
    BAD_MESSAGE = "bad_message"


class EngineObserver(Protocol):
    """Hears of an engine's work as it happens, on the engine's event loop. Never raises, never waits."""

    def batch_started(self, size: int, num_waiting: int) -> None:
        """A batch of `size` requests begins; so many are left in the queue."""

    def batch_answered(self, timings_ms: Mapping[str, float]) -> None:
        """A batch was answered; the time of each of its stages."""

    def work_dropped(self, reason: DropReason, count: int = 1) -> None:
        """So many requests got no answer from this engine."""


class SilentObserver:
    """Hears and forgets: for engines that nobody measures, such as those of an offline evaluation."""

    def batch_started(self, size: int, num_waiting: int) -> None: ...
    def batch_answered(self, timings_ms: Mapping[str, float]) -> None: ...
    def work_dropped(self, reason: DropReason, count: int = 1) -> None: ...
