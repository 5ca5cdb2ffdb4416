"""How many items a second a process lets into the log: those who ask for lists must not wait for those who put items.

Each item costs every process that follows the log some 50 us, so a catalogue that is put as fast as it can be sent
would take the processors from the requests. Whoever puts more waits, in the order of coming.
"""

import asyncio
import time
from collections.abc import Callable

from service.errors import Overloaded

BURST_S = 0.2  # items of so long go through at once
LONGEST_S = 4.0  # wait, beyond which items are refused: clients give up after five, and would put them twice


class Intake:
    """Spreads items over time. Belongs to one event loop."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """per_s: items a second, over longer times than a burst."""
        self._per_s, self._clock = per_s, clock
        self._over_at = clock()  # the time of all that were let through so far

    async def admit(self, num_items: int) -> None:
        """Returns when so many may go on. Raises Overloaded at once where that would take too long."""
        now = self._clock()
        begins = max(self._over_at, now)
        wait = begins - now - BURST_S
        if wait > LONGEST_S:
            raise Overloaded(f"items are put faster than {self._per_s:g} a second; send these again later")
        self._over_at = begins + num_items / self._per_s
        if wait > 0:
            await asyncio.sleep(wait)
