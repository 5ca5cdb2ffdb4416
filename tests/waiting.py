"""Waiting for what another process, thread or task does: a deadline of a minute, since the machine may be busy."""

import asyncio
import time
from contextlib import suppress

LIMIT_S, PAUSE_S = 60, 0.01


def wait_for(holds, limit_s=LIMIT_S, passing=()):
    """Asks until the answer is true, and returns that answer; errors of the kinds `passing` mean `not yet`."""
    deadline = time.monotonic() + limit_s
    while True:
        with suppress(*passing):
            if answer := holds():
                return answer
        assert time.monotonic() < deadline, f"it did not happen within {limit_s} s"
        time.sleep(PAUSE_S)


async def until(holds, limit_s=LIMIT_S):
    """The same in an event loop, whose other tasks go on meanwhile."""
    deadline = time.monotonic() + limit_s
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"it did not happen within {limit_s} s"
        await asyncio.sleep(PAUSE_S)
    return answer
