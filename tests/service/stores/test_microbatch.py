"""Microbatcher: batches without a timer, failures and cancellations that reach nobody else."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from service.stores.microbatch import Microbatcher


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
def test_everyone_gets_their_own_answers(requests, max_batch):
    async def main():
        batcher = Microbatcher(Doubler(), max_batch)
        return await asyncio.gather(*(batcher.ask(keys) for keys in requests))

    assert asyncio.run(main()) == [[key * 2 for key in keys] for keys in requests]


def test_questions_of_one_round_share_a_batch():
    async def main():
        load = Doubler()
        batcher = Microbatcher(load)
        await asyncio.gather(*(batcher.ask([n]) for n in range(5)))
        return load.batches

    assert asyncio.run(main()) == [[0, 1, 2, 3, 4]]


def test_next_batch_collects_while_one_is_away():
    async def main():
        load = Doubler(asyncio.Event())
        batcher = Microbatcher(load)
        waiting = []
        for n in range(3):
            waiting.append(asyncio.create_task(batcher.ask([n])))
            await asyncio.sleep(0.001)
        load.gate.set()
        await asyncio.gather(*waiting)
        return load.batches

    assert asyncio.run(main()) == [[0], [1, 2]]


def test_failed_batch_fails_each_member_and_no_later_one():
    async def main():
        batcher = Microbatcher(Doubler())
        failed = await asyncio.gather(batcher.ask(["bad"]), batcher.ask(["a"]), return_exceptions=True)
        return [type(error) for error in failed], await batcher.ask(["b"])

    assert asyncio.run(main()) == ([ValueError, ValueError], ["bb"])


def test_caller_who_left_is_not_loaded_for():
    async def main():
        load = Doubler()
        batcher = Microbatcher(load)
        left = asyncio.create_task(batcher.ask([1]))
        stays = asyncio.create_task(batcher.ask([2]))
        asyncio.get_running_loop().call_soon(left.cancel)
        return await stays, load.batches

    assert asyncio.run(main()) == ([4], [[2]])
