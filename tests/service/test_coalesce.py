"""Coalescer and SingleFlight: batches without a timer, failures and cancellations that reach nobody else."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.coalesce import Coalescer, SingleFlight


class Doubler:
    """A load function that remembers its batches."""

    def __init__(self, gate=None):
        self.batches, self.gate = [], gate

    async def __call__(self, keys):
        self.batches.append(keys)
        if self.gate:
            await self.gate.wait()
        if "bad" in keys:
            raise ValueError("bad key")
        return [key * 2 for key in keys]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(), max_size=5), max_size=20), st.integers(1, 8))
def test_everyone_gets_their_own_answers(questions, max_batch):
    async def main():
        coalescer = Coalescer(Doubler(), max_batch)
        return await asyncio.gather(*(coalescer.ask(keys) for keys in questions))

    assert asyncio.run(main()) == [[key * 2 for key in keys] for keys in questions]


def test_questions_of_one_round_share_a_batch():
    async def main():
        load = Doubler()
        coalescer = Coalescer(load)
        await asyncio.gather(*(coalescer.ask([n]) for n in range(5)))
        return load.batches

    assert asyncio.run(main()) == [[0, 1, 2, 3, 4]]


def test_next_batch_collects_while_one_is_away():
    async def main():
        load = Doubler(asyncio.Event())
        coalescer = Coalescer(load)
        waiting = []
        for n in range(3):
            waiting.append(asyncio.create_task(coalescer.ask([n])))
            await asyncio.sleep(0.001)
        load.gate.set()
        await asyncio.gather(*waiting)
        return load.batches

    assert asyncio.run(main()) == [[0], [1, 2]]


def test_failed_batch_fails_each_member_and_no_later_one():
    async def main():
        coalescer = Coalescer(Doubler())
        failed = await asyncio.gather(coalescer.ask(["bad"]), coalescer.ask(["a"]), return_exceptions=True)
        return [type(one) for one in failed], await coalescer.ask(["b"])

    assert asyncio.run(main()) == ([ValueError, ValueError], ["bb"])


def test_caller_who_left_is_not_loaded_for():
    async def main():
        load = Doubler()
        coalescer = Coalescer(load)
        left = asyncio.create_task(coalescer.ask([1]))
        stays = asyncio.create_task(coalescer.ask([2]))
        asyncio.get_running_loop().call_soon(left.cancel)
        return await stays, load.batches

    assert asyncio.run(main()) == ([4], [[2]])


class Supplier:
    """A slow computation that counts itself."""

    def __init__(self, error=None):
        self.started = self.finished = 0
        self.error = error

    async def __call__(self):
        self.started += 1
        await asyncio.sleep(0.02)
        if self.error:
            raise self.error
        self.finished += 1
        return "value"


def test_a_thousand_callers_of_one_key_compute_once():
    async def main():
        flights, supplier = SingleFlight(), Supplier()
        answers = await asyncio.gather(*(flights.do("key", supplier) for _ in range(1000)))
        return set(answers), supplier.started

    assert asyncio.run(main()) == ({"value"}, 1)


def test_different_keys_compute_apart():
    async def main():
        flights, supplier = SingleFlight(), Supplier()
        await asyncio.gather(*(flights.do(key, supplier) for key in "abc"))
        return supplier.started

    assert asyncio.run(main()) == 3


def test_failure_reaches_all_who_wait_and_is_not_kept():
    async def main():
        flights = SingleFlight()
        failing = Supplier(ValueError("no"))
        failed = await asyncio.gather(*(flights.do("key", failing) for _ in range(3)), return_exceptions=True)
        return [type(one) for one in failed], failing.started, await flights.do("key", Supplier())

    assert asyncio.run(main()) == ([ValueError] * 3, 1, "value")


def test_cancelled_leader_leaves_the_followers_their_answer():
    async def main():
        flights, supplier = SingleFlight(), Supplier()
        leader, *followers = [asyncio.create_task(flights.do("key", supplier)) for _ in range(3)]
        await asyncio.sleep(0.005)
        leader.cancel()
        return await asyncio.gather(*followers), supplier.started

    assert asyncio.run(main()) == (["value", "value"], 1)


def test_last_caller_who_leaves_ends_the_computation():
    async def main():
        flights, supplier = SingleFlight(), Supplier()
        callers = [asyncio.create_task(flights.do("key", supplier)) for _ in range(2)]
        await asyncio.sleep(0.005)
        for caller in callers:
            caller.cancel()
        await asyncio.sleep(0.04)
        return supplier.started, supplier.finished

    assert asyncio.run(main()) == (1, 0)


def test_newcomer_does_not_join_a_dying_computation():
    async def main():
        flights, supplier = SingleFlight(), Supplier()
        first = asyncio.create_task(flights.do("key", supplier))
        await asyncio.sleep(0.005)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await flights.do("key", supplier), supplier.started

    assert asyncio.run(main()) == ("value", 2)
