"""Times the steps of a request."""

import time


class Clock:
    """Milliseconds a step."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.laps_ms: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps_ms[name] = 1e3 * (now - self._last)
        self._last = now

    @property
    def total_ms(self) -> float:
        return 1e3 * (time.perf_counter() - self._start)
