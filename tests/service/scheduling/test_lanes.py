"""Two lanes: single pieces first, bulk beside them in its share, nothing taken twice, nothing left for ever."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.lanes import BULK_SHARE, SINGLES_S, Lanes
from service.scheduling.pace import HALF_LIFE_S, Pace


@dataclass(eq=False)
class Work:
    weight: int
    is_bulk: bool = False
    size: int = 1


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def filled(*pieces):
    lanes = Lanes(clock := Clock())
    lanes.extend(pieces)
    return lanes, clock


def take(lanes, max_pieces=100, max_weight=800):
    return lanes.take(max_pieces, max_weight, lambda piece: True)


def test_single_pieces_go_first_and_bulk_in_its_share_beside_them():
    bulk, single = [Work(10, True) for _ in range(200)], [Work(10) for _ in range(20)]
    lanes, _ = filled(*bulk, *single)
    batch = take(lanes)
    assert batch[:20] == single
    assert len(batch[20:]) == 800 // BULK_SHARE // 10


def test_bulk_is_not_starved_by_single_pieces():
    lanes, _ = filled(*[Work(10) for _ in range(500)], *[Work(10, True) for _ in range(5)])
    taken = [take(lanes) for _ in range(10)]
    assert sum(len(batch) for batch in taken) == 505
    assert len(lanes) == 0


def test_bulk_alone_fills_whole_batches():
    lanes, clock = filled(Work(10))
    take(lanes)
    clock.now += 1.01 * SINGLES_S
    lanes.extend([Work(10, True) for _ in range(200)])
    assert len(take(lanes)) == 80


@pytest.mark.parametrize("is_bulk", [False, True])
def test_a_piece_too_heavy_for_a_batch_goes_alone(is_bulk):
    lanes, _ = filled(Work(10_000, is_bulk), Work(10, is_bulk))
    assert [piece.weight for piece in take(lanes)] == [10_000]


def test_a_block_as_large_as_a_batch_gets_its_turn_among_single_pieces():
    lanes, _ = filled(Work(700, True, size=100))
    batches = []
    for _ in range(BULK_SHARE):
        lanes.extend([Work(1) for _ in range(100)])
        batches.append(take(lanes))
    assert [len(batch) for batch in batches] == [100] * (BULK_SHARE - 1) + [1]
    assert batches[-1][0].is_bulk


def test_what_waits_is_counted_in_users():
    lanes, _ = filled(Work(1), Work(1, True, size=30))
    assert (lanes.count(False), lanes.count(True), lanes.num_users, len(lanes)) == (1, 30, 31, 2)
    take(lanes)
    assert (lanes.num_users, len(lanes)) == (0, 0)


def test_what_is_not_wanted_is_left_out_and_gone():
    pieces = [Work(1) for _ in range(10)]
    lanes, _ = filled(*pieces)
    assert lanes.take(100, 800, lambda piece: piece is pieces[3]) == [pieces[3]]
    assert len(lanes) == 0


@given(
    st.lists(st.builds(Work, st.integers(1, 900), st.booleans(), st.integers(1, 30)), max_size=60),
    st.integers(1, 20),
    st.integers(1, 900),
)
def test_everything_is_taken_once_and_in_order(pieces, max_pieces, max_weight):
    lanes, _ = filled(*pieces)
    taken = []
    while batch := take(lanes, max_pieces, max_weight):
        assert sum(piece.size for piece in batch) <= max_pieces or len(batch) == 1
        assert sum(piece.weight for piece in batch) <= max_weight or len(batch) == 1
        taken += batch
    for is_bulk in (False, True):
        assert [p for p in taken if p.is_bulk is is_bulk] == [p for p in pieces if p.is_bulk is is_bulk]


def test_the_pace_follows_the_newest_and_forgets():
    pace = Pace(clock := Clock())
    assert pace.expected_s == 0
    for _ in range(100):
        pace.record(0.2)
    assert pace.expected_s == pytest.approx(0.2)
    clock.now += HALF_LIFE_S
    assert pace.expected_s == pytest.approx(0.1)
