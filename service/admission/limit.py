"""The weight that may be under way at once: it follows the wait of those who were admitted.

A limit that is a number in a file is wrong on every other machine. This one shrinks while requests wait longer for
their turn than they should, and grows while they do not. It is fed with the wait alone, not with the time of an answer,
since batches make answers slower by design. A short burst is admitted whole: only a wait that stands shrinks the limit,
and with it gone the limit is back at its ceiling within a second or two.
Source: the Gradient2 limit of Netflix's concurrency-limits, with a target in place of the long-term mean.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_S, MIN_SAMPLES = 0.05, 4  # of waits behind one step of the limit
SMOOTHING = 0.5
MIN_GRADIENT = 0.5
GROWTH = 0.1  # of the limit, in a window without a standing wait
SILENCE_S = 1.0  # without a wait the limit is what it is at start


@dataclass(frozen=True, slots=True)
class LimitBounds:
    """The target of one limit, and the weights it stays between."""

    target_s: float
    floor: float  # enough to keep the computation busy
    ceiling: float  # the largest burst that is admitted whole


class AdaptiveLimit:
    """The limit of one lane. Belongs to one event loop."""

    def __init__(self, bounds: LimitBounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds, self._clock = bounds, clock
        self._limit = bounds.ceiling
        self._sum_s, self._count = 0.0, 0
        self._since = self._heard = clock()
        self.mean_wait_s = 0.0  # in the last window

    @property
    def value(self) -> float:
        """The weight that may be under way now."""
        if self._limit < self._bounds.ceiling and self._clock() - self._heard > SILENCE_S:
            self._limit = self._bounds.ceiling
        return self._limit

    def record_wait(self, seconds: float) -> None:
        """Takes the wait of one admitted request, from its first byte to its turn."""
        now = self._heard = self._clock()
        self._sum_s += seconds
        self._count += 1
        if now - self._since >= WINDOW_S and self._count >= MIN_SAMPLES:
            self.mean_wait_s = self._sum_s / self._count
            self._step()
            self._sum_s, self._count, self._since = 0.0, 0, now

    def _step(self) -> None:
        bounds = self._bounds
        # smoothed and with the growth, one window takes a fifth of the limit at most, however long the wait was
        gradient = max(MIN_GRADIENT, min(1.0, bounds.target_s / max(self.mean_wait_s, 1e-9)))
        wanted = self._limit * gradient + GROWTH * self._limit
        limit = (1 - SMOOTHING) * self._limit + SMOOTHING * wanted
        self._limit = max(bounds.floor, min(bounds.ceiling, limit))
