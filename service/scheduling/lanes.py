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
    def is_bulk(self) -> bool: ...


P = TypeVar("P", bound=Piece)


class Lanes(Generic[P]):
    """The queue of an engine. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._single: deque[P] = deque()
        self._bulk: deque[P] = deque()
        self._clock, self._last_single = clock, float("-inf")

    def __len__(self) -> int:
        return len(self._single) + len(self._bulk)

    def __iter__(self) -> Iterator[P]:
        return chain(self._single, self._bulk)

    def count(self, is_bulk: bool) -> int:
        """Pieces that wait in one lane."""
        return len(self._bulk if is_bulk else self._single)

    def extend(self, pieces: Sequence[P]) -> None:
        for piece in pieces:
            if not piece.is_bulk:
                self._last_single = self._clock()
            (self._bulk if piece.is_bulk else self._single).append(piece)

    def clear(self) -> None:
        self._single.clear()
        self._bulk.clear()

    def take(self, max_pieces: int, max_weight: int, is_wanted: Callable[[P], bool]) -> list[P]:
        """The oldest that fit one batch, single ones first, without those that are not wanted any more.

        The first is taken whatever it weighs, or it would wait for ever. `is_wanted` hears of each piece once.
        """
        expected = self._clock() - self._last_single < SINGLES_S
        part = BULK_SHARE if expected else 1
        batch: list[P] = []
        weight = 0
        for lane, most, heaviest in (
            (self._single, max_pieces, max_weight),
            (self._bulk, max(1, max_pieces // part), max(1, max_weight // part)),
        ):
            taken, own = 0, 0
            while lane and len(batch) < max_pieces and taken < most:
                piece = lane[0]
                # a lane's first piece goes, however heavy, where nothing else would
                if (batch and weight + piece.weight > max_weight) or (taken and own + piece.weight > heaviest):
                    break
                lane.popleft()
                if is_wanted(piece):
                    batch.append(piece)
                    taken, own, weight = taken + 1, own + piece.weight, weight + piece.weight
        return batch
