"""A batch is its members one by one, each history encoded once, and those in haste by the cheaper plan."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.exact import ExactIndex
from model.records import History, PromptPlan, QueryVectors, ServingPlan
from service.engine.compute import BatchCompute, join, split
from service.engine.messages import EngineRequest
from service.stores.vector_codec import CachedVectors

ITEMS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
HISTORIES = st.lists(st.integers(1, 40), max_size=4).map(tuple)


class SumEncoder:
    """The sum of a history's items, and of its newest again; counts what it is asked."""

    def __init__(self, num_queries=2):
        self.num_queries, self.asked = num_queries, []

    def encode(self, histories):
        self.asked += histories
        sums = np.stack([ITEMS[np.array(h.items, dtype=np.int64) - 1].sum(0) + 0.1 for h in histories])
        vectors = np.stack([sums * (1 + query) for query in range(self.num_queries)], 1).astype(np.float32)
        return QueryVectors(vectors, np.zeros((len(histories), 0), dtype=np.int64))


def computed(cheaper=None):
    return BatchCompute(
        SumEncoder(), ExactIndex(ITEMS), ServingPlan(PromptPlan(num_steps=2), quotas=(3, 1)), cheaper=cheaper
    )


def request(items, limit=8, **more):
    return EngineRequest(History(tuple(items)), limit, tuple(items), **more)


def rows_of(results):
    return [result.merged.rows.tolist() for result in results]


@given(st.lists(st.tuples(HISTORIES, st.integers(0, 12)), min_size=1, max_size=5))
def test_a_batch_is_its_members_one_by_one(members):
    requests = [request(items, limit) for items, limit in members]
    assert rows_of(computed().run(requests)) == [rows_of(computed().run([own]))[0] for own in requests]


def test_a_history_is_encoded_once_a_batch():
    compute = computed()
    compute.run([request((1, 2)), request((3,)), request((1, 2)), request((1, 2))])
    assert compute.encoder.asked == [History((1, 2)), History((3,))]


def test_vectors_that_came_along_are_not_computed():
    compute = computed()
    [known] = compute.encode([request((1, 2))])
    compute.encoder.asked.clear()
    brought = request((1, 2), vectors=known.vectors)
    assert rows_of(compute.run([brought])) == rows_of(computed().run([request((1, 2))]))
    assert compute.encoder.asked == []


def test_vectors_alone_are_no_search():
    [result] = computed().run([request((1, 2), limit=0)])
    assert not len(result.merged.rows)
    assert isinstance(result.vectors, CachedVectors)


def test_those_in_haste_get_the_cheaper_plan_and_the_others_their_own():
    cheaper = BatchCompute(SumEncoder(1), ExactIndex(ITEMS), ServingPlan())
    compute, members = computed(cheaper), [request((n,)) for n in range(1, 6)]
    mixed = [own.cheaper() if n % 2 else own for n, own in enumerate(members)]
    whole, cheap = rows_of(computed().run(members)), rows_of(cheaper.run(members))
    assert rows_of(compute.run(mixed)) == [cheap[n] if n % 2 else whole[n] for n in range(5)]


def test_a_batch_of_those_in_haste_alone_asks_the_whole_plan_nothing():
    cheaper = BatchCompute(SumEncoder(1), ExactIndex(ITEMS), ServingPlan())
    compute = computed(cheaper)
    compute.run([request((1,)).cheaper()])
    assert compute.encoder.asked == []
    assert compute.has_cheaper


@given(st.lists(st.integers(), max_size=8), st.sets(st.integers(0, 7)))
def test_what_is_split_is_joined_in_order(members, places):
    others, chosen = split(members, places)
    inside = {place for place in places if place < len(members)}
    assert join(inside, others, chosen) == members


@pytest.mark.parametrize("limit", [1, 40, 100])
def test_a_list_holds_each_item_once_and_no_more_than_there_are(limit):
    [rows] = rows_of(computed().run([request((1, 2, 3), limit)]))
    assert len({*rows}) == len(rows) == min(limit, 37)
    assert not {1, 2, 3} & {*rows}
