"""Items wait for their turn where more are put than a process takes, and are refused where the wait would be long."""

import asyncio

import pytest

from service.catalogue.intake import BURST_S, LONGEST_S, Intake
from service.errors import Overloaded


class Clock:
    """A clock that stands, and the waits that somebody asked for."""

    def __init__(self):
        self.now, self.waits = 100.0, []

    async def sleep(self, seconds):
        # what rounding leaves is no wait
        if seconds > 1e-9:
            self.waits.append(round(seconds, 6))
            self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("service.catalogue.intake.asyncio.sleep", clock.sleep)
    return clock


def admit(clock, intake, *counts):
    async def run():
        for count in counts:
            await intake.admit(count)

    asyncio.run(run())
    return clock.waits


def test_a_burst_goes_through_and_what_follows_has_the_rate(clock):
    intake = Intake(100, lambda: clock.now)
    assert admit(clock, intake, 20, 1) == []
    assert admit(clock, intake, *[1] * 100) == [0.01] * 100


def test_many_items_at_once_are_waited_for_by_the_next(clock):
    intake = Intake(100, lambda: clock.now)
    assert admit(clock, intake, 200, 1) == [round(2 - BURST_S, 6)]


def test_time_without_items_is_not_saved_up(clock):
    intake = Intake(100, lambda: clock.now)
    clock.now += 1000
    assert admit(clock, intake, 200, 1) == [round(2 - BURST_S, 6)]


def test_who_would_wait_too_long_is_refused_at_once_and_takes_no_turn(clock):
    intake = Intake(1, lambda: clock.now)
    admit(clock, intake, 1 + LONGEST_S)
    for _ in range(3):
        with pytest.raises(Overloaded, match="items are put faster than 1 a second; send these again later"):
            admit(clock, intake, 1)
    assert clock.waits == []
    clock.now += 1
    assert admit(clock, intake, 1) == [LONGEST_S - BURST_S]
