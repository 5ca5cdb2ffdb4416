"""A bound on a wait that counts the time of the other side, and hardly that in which our own event loop was busy."""

import asyncio
from types import TracebackType

STEPS = 4


class Patience:
    """Ends a wait like `asyncio.timeout`, but counts in steps, each of which lasts until the event loop gets to it.

    A loop that stands still for a second has then spent one step and not the whole: what came meanwhile lies in the
    socket, and is read before the next step ends. Raises TimeoutError. Made for one `async with`.
    """

    def __init__(self, seconds: float) -> None:
        self._step_s, self._num_left = seconds / STEPS, STEPS
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Patience":
        await self._scope.__aenter__()
        self._step()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)

    def _step(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._num_left:
            self._timer = None
            self._scope.reschedule(loop.time())
            return
        self._num_left -= 1
        self._timer = loop.call_later(self._step_s, self._step)
