"""How late an idle timer wakes up: the share of a latency that is the machine's and not the service's.

A thread of a process that has nothing else to do sleeps in short ticks while a trial runs. On a quiet machine it is
late by a fraction of a millisecond; where other work holds the cores it is late by as much as any request is.
"""

import threading
import time
from types import TracebackType

import numpy as np

TICK_S = 0.005


class StallTimer:
    """Ticks between `with` and its end; `p99_ms` is how late the ticks came."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self._late: list[float] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "StallTimer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self._late or [0.0], 99)) * 1e3

    def _run(self) -> None:
        while not self._is_over.is_set():
            due = time.perf_counter() + self._tick_s
            time.sleep(self._tick_s)
            self._late.append(time.perf_counter() - due)
