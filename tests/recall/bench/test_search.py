"""The search for the highest rate, against services that hold up to a known one."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recall.bench.search import RateSearch


@given(st.floats(1, 5000), st.floats(1, 5000))
def test_the_answer_held_and_is_close_to_the_limit(limit, start):
    rate_held = RateSearch(start).run(lambda rate: rate <= limit)
    assert rate_held <= limit
    assert limit < RateSearch(start).closeness * max(rate_held, RateSearch(start).least) * 1.0001


def test_a_service_that_holds_nothing_is_0():
    asked = []
    assert RateSearch(100.0).run(asked.append) == 0
    assert min(asked) < 1.1


def test_one_stall_of_the_machine_ends_nothing():
    asked, said = Counter(), []

    def holds(rate):
        asked[rate] += 1
        return rate <= 100 and asked[rate] > 1

    assert 90 < RateSearch(40.0).run(holds, said.append) <= 100
    assert said
    assert all("did not hold; once more" in sentence for sentence in said)


@pytest.mark.parametrize("growth", [1.2, 2.0])
def test_no_rate_that_held_is_asked_again(growth):
    asked = []
    RateSearch(10.0, growth).run(lambda rate: asked.append(rate) or rate <= 77)
    held = [rate for rate in asked if rate <= 77]
    assert len({*held}) == len(held)
