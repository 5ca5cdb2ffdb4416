"""One arm's engine as an HTTP process sees it: to the spine what `Engine` is."""

import time
from collections.abc import Awaitable
from typing import TypeVar

from service.engine.blocks import RequestBlock, ResultBlock
from service.engine.messages import EngineRequest, EngineResult
from service.errors import StaleRelease
from service.remote.link import EngineLink

R = TypeVar("R")


class RemoteEngine:
    """One arm's engine as an HTTP process sees it; weights, index and cache live in the engine process."""

    def __init__(self, arm: str, bundle: str, link: EngineLink) -> None:
        """bundle: the one whose rows are asked in."""
        self._arm, self._bundle, self._link = arm, bundle, link
        self.last_batch_at = float("-inf")

    @property
    def problem(self) -> str | None:
        return self._link.problem(self._arm)

    async def ask(self, request: EngineRequest) -> EngineResult:
        """Raises what Engine.ask raises; StaleRelease once this process knows the bundle that is served instead."""
        started = time.monotonic()
        result = await self._answered(self._link.ask(self._arm, self._bundle, request))
        return result._replace(timings_ms={**result.timings_ms, "remote": self._since(started)})

    async def ask_block(self, block: RequestBlock) -> ResultBlock:
        """The same for a block; what Engine.ask_block raises."""
        started = time.monotonic()
        result = await self._answered(self._link.ask_block(self._arm, self._bundle, block))
        return result._replace(timings_ms={**result.timings_ms, "remote": self._since(started)})

    async def _answered(self, answer: Awaitable[R]) -> R:
        try:
            return await answer
        except StaleRelease:
            # the caller asks again (with_current), and should then find the release that is served
            await self._link.catch_up(self._arm, self._bundle)
            raise

    def _since(self, started: float) -> float:
        """Milliseconds; an answer is a sign of life."""
        self.last_batch_at = time.monotonic()
        return 1e3 * (self.last_batch_at - started)

    async def close(self) -> None:
        return
