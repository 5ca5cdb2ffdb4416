"""Turns of the event loop: so many tasks go on in each of its rounds, and the others in the next ones.

A batch answers some eighty requests at once, each of which then takes a quarter of a millisecond to write its list.
In one round that is 20 ms in which the loop reads nothing, and a request that will be refused waits for its refusal as
long. In turns the lists are written no later, since the same loop writes them one after the other, and what comes
meanwhile is read between them.
"""

import asyncio
from collections import deque


class Turns:
    """Gives turns in the order in which they are asked for. Belongs to one event loop."""

    def __init__(self, per_round: int) -> None:
        """per_round: tasks that go on in one round of the loop."""
        self._per_round = self._left = per_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_counting = False  # a round has begun in which a turn was taken

    async def take(self) -> None:
        """Returns at once, or in one of the next rounds."""
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next_round)
        if self._left:
            self._left -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _next_round(self) -> None:
        self._left = self._per_round
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            # whoever was cancelled meanwhile takes no turn
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        # whoever is let on runs in the next round, with what is left of it for those who come then
        self._is_counting = self._left < self._per_round
        if self._is_counting:
            asyncio.get_running_loop().call_soon(self._next_round)
