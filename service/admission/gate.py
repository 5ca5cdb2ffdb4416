"""The gate before the service: admits a request by its weight and priority, or refuses it before its body is read.

Two lanes: single requests, and batches, so that one client's batches never use up what single requests may use. The
weight of a request is what it will cost to compute, in tokens: guessed from the size of its body before that is read,
then corrected (`Ticket.settle`). A lane where nothing is under way admits whatever comes: a request heavier than the
limit is slow, not impossible.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from service.admission.limit import AdaptiveLimit, LimitBounds

BASE_WEIGHT = 16  # of a request without history: a pass has at least 16 tokens, and HTTP's work is about as much
BYTES_PER_ITEM = 7  # of an id in a JSON list, with its comma
MAX_BYTES = 2**20  # of a body that is weighed by its size
FLOOR = 16 * 64.0  # weight: 16 requests of 48 items, two passes of the encoder
CEILING = 40_000.0  # weight: a burst of 1,000 to 2,000 short requests, or of some 500 with 50 items
BATCH_FLOOR, BATCH_CEILING = 16_384.0, 16 * 16_384.0  # weight: 256 members of 48 items, and 16 times as much
BATCH_TARGET = 10  # waits of a single request that a batch may wait for its turn


class Priority(StrEnum):
    """The caller's word for how much a request matters; `X-Priority`."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


# of the limit: what may be under way when a request of this priority is admitted
SHARES = {Priority.HIGH: 6.0, Priority.NORMAL: 1.0, Priority.LOW: 0.5}


class Lane(StrEnum):
    """Single requests and batches are counted apart."""

    SINGLE = "single"
    BATCH = "batch"


class Ticket:
    """The leave of one request to be served; given back once, when its answer is sent or its caller has gone."""

    __slots__ = ("_gate", "_task", "_waited", "_weight", "has_left", "lane", "priority", "since")

    def __init__(self, gate: "Gate", lane: Lane, priority: Priority, weight: int) -> None:
        self._gate, self._weight, self._waited = gate, weight, False
        self.lane, self.priority = lane, priority
        self.since = time.monotonic()  # the head of the request had come
        self._task: asyncio.Task[object] | None = None
        self.has_left = False  # the caller has gone

    def serve_by(self, task: "asyncio.Task[object] | None") -> None:
        """Says which task works for this request; it is cancelled at once where the caller has gone already."""
        self._task = task
        if self.has_left:
            self.leave()

    def leave(self) -> None:
        """Cancels the work, since nobody waits for it any more."""
        self.has_left = True
        if self._task:
            self._task.cancel()

    def settle(self, num_items: int, num_requests: int = 1) -> None:
        """Corrects the weight, now that the body is read: items that will be encoded, of so many requests."""
        self._weigh(num_requests * BASE_WEIGHT + num_items)

    def multiply(self, factor: float) -> None:
        """Raises the weight: so many arms compute the request, of a batch on average."""
        if factor != 1:
            self._weigh(round(self._weight * factor))

    def record_wait(self, seconds: float) -> None:
        """Takes the time that the request waited for its turn; of a batch, that of the first member answered."""
        if not self._waited:
            self._waited = True
            self._gate.limits[self.lane].record_wait(seconds)

    def end(self) -> None:
        """Ends the request. A second call changes nothing."""
        self._weigh(0)

    def _weigh(self, weight: int) -> None:
        self._gate.change(self.lane, weight - self._weight)
        self._weight = weight


class Gate:
    """Admits requests to one process. Belongs to its event loop."""

    def __init__(self, target_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """target_s: the mean wait for their turn above which requests are refused."""
        batches = LimitBounds(BATCH_TARGET * target_s, BATCH_FLOOR, BATCH_CEILING)
        self.limits = {
            Lane.SINGLE: AdaptiveLimit(LimitBounds(target_s, FLOOR, CEILING), clock),
            Lane.BATCH: AdaptiveLimit(batches, clock),
        }
        self.under_way = dict.fromkeys(Lane, 0)  # weight; whole numbers, so that nothing is left of what has ended
        self.admitted: Counter[tuple[Lane, Priority]] = Counter()
        self.refused: Counter[tuple[Lane, Priority]] = Counter()

    def admit(self, lane: Lane, priority: Priority, num_bytes: int | None) -> Ticket | None:
        """The ticket of a request whose body has so many bytes (None = unknown); None where it is refused."""
        weight = BASE_WEIGHT + min(MAX_BYTES if num_bytes is None else num_bytes, MAX_BYTES) // BYTES_PER_ITEM
        under_way = self.under_way[lane]
        if under_way > 0 and under_way + weight > self.limits[lane].value * SHARES[priority]:
            self.refused[lane, priority] += 1
            return None
        self.admitted[lane, priority] += 1
        self.under_way[lane] = under_way + weight
        return Ticket(self, lane, priority, weight)

    def change(self, lane: Lane, weight: int) -> None:
        """Adds to what is under way; called by tickets."""
        self.under_way[lane] += weight
