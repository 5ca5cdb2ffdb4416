"""Work that waits, in two lanes: single pieces first, bulk in what they leave, and never nothing of it.

A client that sends two hundred users in one request must not hold up those who send one: theirs are taken first, and
beside them at most a share of a batch is bulk. Where no single piece came lately, bulk may fill whole batches.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Generic, Protocol, TypeVar

BULK_SHARE = 8  # one part in so many of a batch is for bulk while single pieces come
SINGLES_S = 1.0  # so long after a single piece others are expected


class Piece(Protocol):
    """A piece of work that can say what it weighs."""

    @property
    def weight(self) -> int: ...
    @property
    def size(self) -> int:
        """Users that it is for: what a batch and the queue hold at most is counted in them."""
        ...

    @property
    def is_bulk(self) -> bool: ...


P = TypeVar("P", bound=Piece)


class Lanes(Generic[P]):
    """The queue of an engine. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._single: deque[P] = deque()
        self._bulk: deque[P] = deque()
        self._num_users = {False: 0, True: 0}  # by is_bulk
        self._clock, self._last_single = clock, float("-inf")
        self._num_passed_over = 0  # batches in a row in which the oldest bulk piece found no room

    def __len__(self) -> int:
        return len(self._single) + len(self._bulk)

    def __iter__(self) -> Iterator[P]:
        return chain(self._single, self._bulk)

    @property
    def num_users(self) -> int:
        """Users of all pieces that wait."""
        return sum(self._num_users.values())

    def count(self, is_bulk: bool) -> int:
        """Users of the pieces that wait in one lane."""
        return self._num_users[is_bulk]

    def extend(self, pieces: Sequence[P]) -> None:
        for piece in pieces:
            if not piece.is_bulk:
                self._last_single = self._clock()
            (self._bulk if piece.is_bulk else self._single).append(piece)
            self._num_users[piece.is_bulk] += piece.size

    def clear(self) -> None:
        self._single.clear()
        self._bulk.clear()
        self._num_users = {False: 0, True: 0}

    def take(self, max_users: int, max_weight: int, is_wanted: Callable[[P], bool]) -> list[P]:
        """The oldest that fit one batch, single ones first, without those that are not wanted any more.

        The first is taken whatever it weighs, or it would wait for ever; so is a bulk piece that fits beside no single
        ones, once in BULK_SHARE batches. `is_wanted` hears of each piece once.
        """
        # bulk stays small for a while after the last single piece: the next one should not wait for a full batch
        expected = self._clock() - self._last_single < SINGLES_S
        part = BULK_SHARE if expected else 1
        singles = (self._single, max_users, max_weight)
        bulk = (self._bulk, max(1, max_users // part), max(1, max_weight // part))
        # once in BULK_SHARE batches bulk goes first, or steady single pieces would starve it
        order = (bulk, singles) if self._num_passed_over >= BULK_SHARE - 1 else (singles, bulk)
        batch: list[P] = []
        users = weight = 0
        for lane, most, heaviest in order:
            taken, own = 0, 0
            while lane:
                piece = lane[0]
                # a lane's first piece goes, however heavy, where nothing else would
                fits = users + piece.size <= max_users and weight + piece.weight <= max_weight
                if (batch and not fits) or (taken and (taken + piece.size > most or own + piece.weight > heaviest)):
                    break
                lane.popleft()
                self._num_users[piece.is_bulk] -= piece.size
                if is_wanted(piece):
                    batch.append(piece)
                    taken, own = taken + piece.size, own + piece.weight
                    users, weight = users + piece.size, weight + piece.weight
            if lane is self._bulk:
                self._num_passed_over = self._num_passed_over + 1 if lane and not taken else 0
        return batch
