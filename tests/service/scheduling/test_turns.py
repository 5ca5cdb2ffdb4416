"""Turns of the event loop: so many a round, in order, and none lost to those who left."""

import asyncio
from contextlib import suppress

import pytest

from service.scheduling.turns import Turns


def rounds_of(num_tasks, per_round, cancelled=()):
    """The tasks that went on in each round of the loop."""

    async def main():
        turns, now = Turns(per_round), [0]
        by_round = {}

        async def work(number):
            await turns.take()
            by_round.setdefault(now[0], []).append(number)

        tasks = [asyncio.create_task(work(number)) for number in range(num_tasks)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            now[0] += 1
            if now[0] == 1:
                for number in cancelled:
                    tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return list(by_round.values())

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_so_many_go_on_in_a_round_and_in_order():
    rounds = rounds_of(10, 4)
    assert rounds == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_whoever_left_takes_no_turn():
    assert rounds_of(10, 2, cancelled=(3, 5)) == [[0, 1], [2, 4], [6, 7], [8, 9]]


def test_few_go_on_at_once():
    assert rounds_of(4, 4) == [[0, 1, 2, 3]]


def test_turns_are_there_again_in_a_later_round():
    async def main():
        turns, num_at_once = Turns(2), 0
        for _ in range(3):
            for _ in range(2):
                # a coroutine that has nothing to wait for ends at its first step
                with suppress(StopIteration):
                    turns.take().send(None)
                    pytest.fail("it waits")
                num_at_once += 1
            await asyncio.sleep(0.01)
        return num_at_once

    assert asyncio.run(main()) == 6
