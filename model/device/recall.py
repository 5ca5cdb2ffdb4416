"""Lanes of all sizes: requests in, lists out; what lanes cannot answer is refused with a reason, request by request.

Imports no Triton: the service knows this file where there is none.
"""

from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from model.columns import Columns
from model.device.layout import Answers

if TYPE_CHECKING:
    from model.device.lane import Lane


class Ticket(NamedTuple):
    """A batch under way."""

    lane: "Lane"
    users: int


class DeviceRecall:
    """Answers batches of up to `max_batch` users; two may be under way at once, started and finished in order."""

    def __init__(self, lanes: dict[int, list["Lane"]]) -> None:
        """lanes: by size, all of one chain."""
        self.sizes = tuple(sorted(lanes))
        self._layout = next(iter(lanes.values()))[0].chain.layout
        self._limit = next(iter(lanes.values()))[0].chain.shape.limit
        self._free: dict[int, SimpleQueue[Lane]] = {size: SimpleQueue() for size in lanes}
        for own in lanes.values():
            for lane in own:
                self._free[lane.size].put(lane)

    @property
    def max_batch(self) -> int:
        return self.sizes[-1]

    @property
    def max_tokens(self) -> int:
        """The tokens of the largest batch: a graph costs the same whatever its histories hold."""
        return self.max_batch * (1 + self._layout.max_length)

    def takes_all(self, longest: int, most_excluded: int) -> bool:
        """Tells if no request whose list and exclusions are not larger is refused."""
        few = longest <= self._layout.num_items - most_excluded
        return few and longest <= self._limit and most_excluded <= self._layout.max_excluded

    def refuses(self, limit: int, num_excluded: int) -> str:
        """Names the reason why a request takes the general path, as a label; empty where it does not."""
        if limit > self._limit:
            return "long_list"
        if num_excluded > self._layout.max_excluded:
            return "many_excluded"
        return "few_items" if limit > self._layout.num_items - num_excluded else ""

    def start(self, columns: Columns) -> Ticket:
        """Begins a batch of at least one user; waits while all lanes of its size are taken.

        Raises ValueError for rows outside the catalogue.
        """
        count = columns.size
        size = next(size for size in self.sizes if size >= count)
        lane = self._free[size].get()
        try:
            lane.fill(columns)
        # given back: a lane that is lost here would make every later batch of its size wait
        except ValueError:
            self._free[size].put(lane)
            raise
        lane.start()
        return Ticket(lane, count)

    def finish(self, ticket: Ticket) -> Answers:
        """Waits for a batch; the answers are a copy."""
        try:
            return ticket.lane.copied(ticket.users)
        finally:
            self._free[ticket.lane.size].put(ticket.lane)
