"""Times the steps of a request, and bounds how long one of them is waited for."""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Milliseconds a step."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.laps_ms: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps_ms[name] = 1e3 * (now - self._last)
        self._last = now

    def timings_ms(self, engine_ms: Mapping[str, float]) -> dict[str, float]:
        """The laps, what the engine says, and the total."""
        total_ms = 1e3 * (time.perf_counter() - self._start)
        steps = {**self.laps_ms, **engine_ms, "total": total_ms}
        return {name: round(value, 3) for name, value in steps.items()}


async def within(until: float, step: Awaitable[T]) -> T | None:
    """The outcome of a step, or None where it is not there at `until`, in time.monotonic()."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(None if until == float("inf") else until):
            return await step
    return None
