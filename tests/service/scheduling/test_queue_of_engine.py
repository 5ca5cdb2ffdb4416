"""The engine's queue through any order of puts, takes, cancellations and pauses, against a plain list."""

from dataclasses import dataclass, field
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.scheduling.lanes import BULK_SHARE, SINGLES_S, Lanes

USERS, WEIGHT = 8, 100  # of a batch at most
NUMBERS = count()


@dataclass(eq=False)
class Piece:
    weight: int
    is_bulk: bool
    size: int
    is_wanted: bool = True
    number: int = field(default_factory=NUMBERS.__next__)


PIECES = st.builds(Piece, st.integers(1, 250), st.booleans(), st.integers(1, 12))


class QueueOfEngine(RuleBasedStateMachine):
    """Every piece leaves once and in its lane's order; a batch keeps its limits; nobody is passed over for ever."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.lanes = Lanes(lambda: self.now)
        self.waits = []  # of the model: what was put and has not left
        self.num_passed_over = 0

    @rule(pieces=st.lists(PIECES, max_size=6))
    def put(self, pieces):
        self.lanes.extend(pieces)
        self.waits += pieces

    @precondition(lambda self: self.waits)
    @rule(data=st.data())
    def cancel(self, data):
        data.draw(st.sampled_from(self.waits)).is_wanted = False

    @rule(seconds=st.sampled_from([0.1, 1.1 * SINGLES_S]))
    def pause(self, seconds):
        self.now += seconds

    @rule()
    def take(self):
        asked, bulk = [], self.first(is_bulk=True)
        batch = self.lanes.take(USERS, WEIGHT, lambda piece: asked.append(piece) or piece.is_wanted)
        # asked about once each, in the order of its lane, and gone whether wanted or not
        assert len({piece.number for piece in asked}) == len(asked)
        for is_bulk in (False, True):
            left = [piece for piece in asked if piece.is_bulk is is_bulk]
            assert left == [piece for piece in self.waits if piece.is_bulk is is_bulk][: len(left)]
        assert batch == [piece for piece in asked if piece.is_wanted]
        if len(batch) > 1:
            assert sum(piece.size for piece in batch) <= USERS
            assert sum(piece.weight for piece in batch) <= WEIGHT
        # whoever waits is not told that there is nothing to do
        assert asked or not self.waits
        self.waits = [piece for piece in self.waits if piece not in asked]
        self.num_passed_over = self.num_passed_over + 1 if bulk and bulk not in asked else 0
        assert self.num_passed_over < BULK_SHARE

    @rule()
    def clear(self):
        self.lanes.clear()
        self.waits = []
        self.num_passed_over = 0

    def first(self, is_bulk):
        return next((piece for piece in self.waits if piece.is_bulk is is_bulk), None)

    @invariant()
    def counts_are_those_of_what_waits(self):
        assert len(self.lanes) == len(self.waits)
        assert self.lanes.num_users == sum(piece.size for piece in self.waits)
        for is_bulk in (False, True):
            assert self.lanes.count(is_bulk) == sum(piece.size for piece in self.waits if piece.is_bulk is is_bulk)
        assert sorted(piece.number for piece in self.lanes) == sorted(piece.number for piece in self.waits)


TestQueueOfEngine = QueueOfEngine.TestCase
TestQueueOfEngine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
