"""The idle timer: late by little on its own, by much where the process is held."""

import random
import time

from recall.bench.stall import StallTimer


def test_a_timer_counts_how_late_it_was():
    with StallTimer(tick_s=0.001) as timer:
        time.sleep(0.1)
    assert 0 < timer.p99_ms < 1000


def test_a_timer_that_never_ticked_was_not_late():
    assert StallTimer().p99_ms == 0


def test_a_process_that_is_held_shows():
    numbers = [random.random() for _ in range(1_000_000)]
    with StallTimer(tick_s=0.001) as timer:
        time.sleep(0.01)
        # a sort holds the interpreter's lock from beginning to end
        numbers.sort()
    assert timer.p99_ms > 50
