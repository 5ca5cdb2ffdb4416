"""Blocks: the same users and answers as one by one, in any parts, and one outcome however the parts come in."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.merging import Merged
from model.records import History
from model.rules import ListRules
from service.engine.blocks import Gathering, RequestBlock, ResultBlock, split, until_deadline
from service.engine.messages import EngineRequest, EngineResult
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from service.stores.vector_codec import CachedVectors


def request(items=(1, 2), limit=3, **more):
    return EngineRequest(History(items), limit, items, **more)


def block_of(*requests):
    return RequestBlock(RequestBlock.of(requests[0]).columns.join([RequestBlock.of(each).columns for each in requests]))


def result(rows, prompts=(9,), **more):
    merged = Merged(
        np.array(rows, dtype=np.int64), np.arange(len(rows), 0, -1, dtype=np.float32), np.zeros(len(rows), np.int64)
    )
    vectors = CachedVectors(np.full((2, 4), len(rows), dtype=np.float32), np.array(prompts, dtype=np.int64))
    return EngineResult(vectors, merged, {"encode": 1.0}, **more)


class Receiver:
    """Takes one outcome, as a future does."""

    def __init__(self):
        self.outcomes = []

    def done(self):
        return bool(self.outcomes)

    def set_result(self, outcome):
        self.outcomes.append(outcome)

    set_exception = set_result


@pytest.mark.parametrize("key", [None, b"k"])
def test_a_block_of_one_is_its_request(key):
    own = request(deadline=5.0, key=key, rules=ListRules(diversity=0.1), min_catalogue=4, explain=True, is_bulk=True)
    assert RequestBlock.of(own).requests() == [own]


@pytest.mark.parametrize("more", [{"rules": ListRules(diversity=0.1)}, {"explain": True}])
def test_what_is_asked_beside_the_list_makes_a_block_other_than_plain(more):
    assert not RequestBlock.of(request(**more)).is_plain
    assert RequestBlock.of(request()).is_plain


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(1, 9))
def test_parts_hold_all_users_in_order(lengths, size):
    block = block_of(*[request(tuple(range(1, 1 + length)), limit=length) for length in lengths])
    parts = block.parts(size)
    assert [r for part in parts for r in part.requests()] == block.requests()
    assert all(part.size <= size for part in parts)
    assert sum(part.weight for part in parts) == block.weight == len(lengths) + sum(lengths)


@given(st.lists(st.one_of(st.lists(st.integers(1, 99), max_size=5), st.none()), min_size=1, max_size=6))
def test_outcomes_come_back_as_they_went_in(lists):
    outcomes = [EngineFailed("broken") if rows is None else result(rows) for rows in lists]
    for before, after in zip(outcomes, ResultBlock.of(outcomes).outcomes(), strict=True):
        if isinstance(before, EngineFailed):
            assert after is before
            continue
        assert after.merged.rows.tolist() == before.merged.rows.tolist()
        assert after.merged.scores.tolist() == before.merged.scores.tolist()
        assert after.vectors.vectors.tolist() == before.vectors.vectors.tolist()


def test_an_answer_alone_is_that_of_all():
    block = ResultBlock.of([result([4, 5], known=True), result([7], is_cheap=True)])
    for place, outcome in enumerate(block.outcomes()):
        alone = block.answer(place)
        assert alone.merged.rows.tolist() == outcome.merged.rows.tolist()
        assert (alone.known, alone.is_cheap) == (outcome.known, outcome.is_cheap)


def test_a_block_knows_no_more_of_the_catalogue_than_the_list_that_knows_least():
    assert ResultBlock.of([result([1], catalogue=7), result([2], catalogue=5)]).catalogue == 5


def test_a_part_of_an_answer_has_its_own_users():
    block = ResultBlock.of([result([1]), result([2, 3]), result([4])])
    assert [outcome.merged.rows.tolist() for outcome in block.part(slice(1, 3)).outcomes()] == [[2, 3], [4]]


def test_nobody_answered_is_an_answer_too():
    block = ResultBlock.of([Overloaded("full"), Overloaded("full")])
    assert [str(outcome) for outcome in block.outcomes()] == ["full", "full"]


@given(st.permutations(range(4)))
def test_parts_are_put_together_in_order_whichever_comes_last(order):
    answer = Receiver()
    parts = split(block_of(*[request((n,)) for n in range(1, 5)]), 0, answer)
    for number in order:
        assert not answer.done()
        parts[number][1].set_result(result([10 + number]))
    [block] = answer.outcomes
    assert [outcome.merged.rows.tolist() for outcome in block.outcomes()] == [[10], [11], [12], [13]]


def test_a_part_that_fails_fails_its_own_users_alone():
    answer = Receiver()
    first, second = split(block_of(*[request((n,)) for n in range(1, 6)]), 3, answer)
    first[1].set_exception(EngineFailed("this batch"))
    second[1].set_result(ResultBlock.of([result([8]), result([9])]))
    [block] = answer.outcomes
    assert sorted(block.errors) == [0, 1, 2]
    assert block.answer(4).merged.rows.tolist() == [9]


def test_who_has_left_is_told_nothing():
    answer = Receiver()
    gathering = Gathering([1], answer)
    answer.set_result("expired")
    gathering.add(0, result([1]))
    assert answer.outcomes == ["expired"]
    assert gathering.done()


async def waited(deadline, answer=None):
    future = asyncio.get_running_loop().create_future()
    if answer:
        asyncio.get_running_loop().call_soon(future.set_result, answer)
    return await until_deadline(future, deadline)


@pytest.mark.parametrize("left_s", [60, float("inf")])
def test_an_answer_before_the_deadline_is_the_answer(left_s):
    assert asyncio.run(waited(time.monotonic() + left_s, "there")) == "there"


def test_behind_its_deadline_nobody_waits():
    with pytest.raises(DeadlineExceeded, match="the deadline passed before the answer was ready"):
        asyncio.run(asyncio.wait_for(waited(time.monotonic() + 0.001), 60))
