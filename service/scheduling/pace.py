"""The time that a batch takes lately: what a deadline is compared with before work begins."""

import time
from collections.abc import Callable

NEWEST = 0.2  # weight of the newest batch
HALF_LIFE_S = 2.0  # a slow moment is forgotten, even where it keeps everything from being tried


class Pace:
    """A mean over recent batches that halves while none is measured."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mean_s, self._at = 0.0, clock()

    def record(self, seconds: float) -> None:
        """Takes the time of one batch."""
        # the decayed mean, not the kept one: after a pause the newest batch counts for more
        self._mean_s = seconds if not self._mean_s else (1 - NEWEST) * self.expected_s + NEWEST * seconds
        self._at = self._clock()

    @property
    def expected_s(self) -> float:
        """The time that the next batch will take, as far as one can tell; 0 before the first."""
        return float(self._mean_s * 0.5 ** ((self._clock() - self._at) / HALF_LIFE_S))
