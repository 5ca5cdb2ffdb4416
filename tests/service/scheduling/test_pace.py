"""The pace of batches: a mean that follows, and forgets a slow moment that keeps everything from being tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.pace import HALF_LIFE_S, NEWEST, Pace


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def measured(*seconds, pause_s=0.0):
    pace = Pace(clock := Clock())
    for own in seconds:
        pace.record(own)
        clock.now += pause_s
    return pace, clock


def test_before_the_first_batch_nothing_is_expected():
    assert Pace().expected_s == 0


def test_the_first_batch_is_expected_again():
    assert measured(0.5)[0].expected_s == 0.5


def test_a_new_batch_moves_it_by_its_weight():
    assert measured(1.0, 2.0)[0].expected_s == pytest.approx((1 - NEWEST) * 1.0 + NEWEST * 2.0)


def test_a_slow_moment_halves_while_nothing_is_measured():
    pace, clock = measured(8.0)
    clock.now += 3 * HALF_LIFE_S
    assert pace.expected_s == pytest.approx(1.0)


def test_after_a_pause_the_newest_batch_counts_for_more():
    pace, clock = measured(8.0)
    clock.now += 100 * HALF_LIFE_S
    pace.record(0.5)
    assert pace.expected_s == pytest.approx(NEWEST * 0.5)


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=30), st.floats(0, 1))
def test_it_is_never_above_the_slowest_batch(seconds, pause_s):
    assert 0 <= measured(*seconds, pause_s=pause_s)[0].expected_s <= max(seconds) * 1.000001
