"""A piece of work in the queue: when it may still learn vectors, when it may be cheap, and that it is answered once."""

import asyncio

import numpy as np
import pytest

from model.records import History
from service.engine.blocks import RequestBlock
from service.engine.messages import EngineRequest
from service.engine.waiting import Waiting
from service.errors import DeadlineExceeded, EngineFailed
from service.stores.vector_codec import CachedVectors

HISTORY = History((1, 2, 3))
VECTORS = CachedVectors(np.ones((1, 4), dtype=np.float32), np.zeros(0, dtype=np.int64))


@pytest.fixture
def future():
    loop = asyncio.new_event_loop()
    yield loop.create_future()
    loop.close()


def waiting(future=None, limit=10, **more):
    return Waiting(EngineRequest(HISTORY, limit, **more), future, 0.0)


def test_known_vectors_make_it_weigh_no_history():
    work = waiting()
    work.learn(VECTORS)
    assert (work.weight, work.vectors_known) == (1, True)


def test_what_is_being_computed_learns_nothing_more():
    work = waiting()
    work.start({})
    work.learn(VECTORS)
    assert work.request.vectors is None


def test_it_takes_what_an_earlier_batch_has_just_encoded():
    work = waiting()
    work.start({HISTORY: VECTORS})
    assert work.request.vectors is VECTORS


def test_its_own_vectors_stand_whatever_a_batch_has_encoded():
    work = waiting(vectors=VECTORS)
    work.start({HISTORY: CachedVectors(VECTORS.vectors * 2, VECTORS.prompts)})
    assert work.request.vectors is VECTORS


@pytest.mark.parametrize(("work", "expected"), [(waiting(), True), (waiting(limit=0), False)])
def test_lists_can_be_cheap_and_vectors_alone_cannot(work, expected):
    assert work.can_be_cheap is expected


def test_a_list_whose_vectors_are_known_costs_nothing_to_save():
    assert not waiting(vectors=VECTORS).can_be_cheap


def test_a_block_is_never_cheap():
    block = Waiting(RequestBlock.of(EngineRequest(HISTORY, 10)), None, 0.0)
    block.make_cheap()
    assert not block.can_be_cheap
    assert not block.is_cheap


def test_a_failure_after_the_answer_changes_nothing(future):
    work = waiting(future)
    work.expire()
    work.fail(EngineFailed("too late to tell"))
    with pytest.raises(DeadlineExceeded, match="the deadline passed before the answer was ready"):
        future.result()
