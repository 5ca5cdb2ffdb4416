"""A step is waited for until a moment, and no error of its own is lost."""

import asyncio
import time

import pytest

from service.clock import Clock, within


async def answer(after_s=0.0, error=None):
    await asyncio.sleep(after_s)
    if error:
        raise error
    return "there"


def test_a_step_in_time_is_its_outcome():
    assert asyncio.run(within(time.monotonic() + 60, answer())) == "there"
    assert asyncio.run(within(float("inf"), answer())) == "there"


def test_a_step_that_is_not_there_in_time_is_none_and_ends():
    async def scenario():
        step = asyncio.ensure_future(answer(600))
        outcome = await within(time.monotonic() + 0.01, step)
        return outcome, step.cancelled()

    assert asyncio.run(scenario()) == (None, True)


def test_a_step_whose_moment_has_passed_is_none():
    assert asyncio.run(within(time.monotonic() - 1, answer(600))) is None


def test_an_error_of_the_step_is_its_callers():
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(within(time.monotonic() + 60, answer(error=ValueError("broken"))))


def test_laps_are_told_with_the_engines_times_and_the_total(monkeypatch):
    # when it begins, after each of two laps, and when it is told
    times = iter([10.0, 10.25, 10.375, 11.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    clock = Clock()
    clock.lap("read")
    clock.lap("admit")
    told = clock.timings_ms({"encode": 1.23456})
    assert [*told.items()] == [("read", 250), ("admit", 125), ("encode", 1.235), ("total", 1000)]
