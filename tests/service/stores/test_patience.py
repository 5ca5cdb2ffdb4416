"""Patience: what never comes is given up, what came while the event loop stood still is not."""

import asyncio
import time

import pytest

from service.stores.patience import Patience


def test_what_never_comes_is_given_up():
    async def main():
        async with Patience(0.02):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(main())


def test_a_loop_that_stands_still_spends_one_step():
    async def main():
        answer = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, answer.set)
        async with Patience(0.4):
            # longer than the whole: the answer is due before the loop goes on
            time.sleep(0.6)  # noqa: ASYNC251
            await answer.wait()
        return "came"

    assert asyncio.run(main()) == "came"


def test_who_is_cancelled_is_cancelled():
    async def main():
        async def wait():
            async with Patience(60):
                await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_what_fails_inside_is_raised_and_leaves_no_timer():
    async def main():
        with pytest.raises(ValueError, match="own"):
            async with Patience(0.01):
                raise ValueError("own")
        await asyncio.sleep(0.05)

    asyncio.run(main())
