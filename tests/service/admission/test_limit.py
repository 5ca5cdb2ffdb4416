"""The limit shrinks with a wait that stands, grows without one, and stays between its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.limit import SILENCE_S, WINDOW_S, AdaptiveLimit, LimitBounds

BOUNDS = LimitBounds(target_s=0.025, floor=100, ceiling=10_000)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def after(*waits_s, step_s=WINDOW_S / 5):
    """The limit after these waits, told at a steady pace."""
    clock = Clock()
    limit = AdaptiveLimit(BOUNDS, clock)
    for wait_s in waits_s:
        clock.now += step_s
        limit.record_wait(wait_s)
    return limit, clock


def test_short_waits_leave_the_limit_at_its_ceiling():
    assert after(*[0.01] * 500)[0].value == BOUNDS.ceiling


def test_a_standing_wait_shrinks_it_to_the_floor():
    assert after(*[1.0] * 500)[0].value == BOUNDS.floor


def test_one_slow_moment_does_not():
    assert after(*[0.01] * 50, 5.0, *[0.01] * 50)[0].value > BOUNDS.ceiling / 2


def test_it_grows_again_when_nobody_waits():
    assert after(*[1.0] * 500, *[0.001] * 1000)[0].value == BOUNDS.ceiling


def test_it_forgets_in_silence():
    limit, clock = after(*[1.0] * 500)
    clock.now += 1.01 * SILENCE_S
    assert limit.value == BOUNDS.ceiling


def test_a_wait_at_the_target_is_where_it_comes_to_rest():
    """A machine that works off 1,000 a second: what is under way at the limit waits for limit / 1,000 seconds."""
    clock = Clock()
    limit = AdaptiveLimit(BOUNDS, clock)
    for _ in range(5000):
        clock.now += WINDOW_S / 5
        limit.record_wait(limit.value / 1000 / 10)
    assert limit.mean_wait_s == pytest.approx(BOUNDS.target_s, rel=0.2)


@given(st.lists(st.floats(0, 100), max_size=200), st.floats(0.0001, 0.2))
def test_it_never_leaves_its_bounds(waits_s, step_s):
    assert BOUNDS.floor <= after(*waits_s, step_s=step_s)[0].value <= BOUNDS.ceiling
