"""Lists of one length are merged together and each is its own; what fills them keeps filter, caps and exclusions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.base import Hits
from model.attributes.filters import canonical
from model.records import History, PromptPlan, ServingPlan
from model.rules import Cap, ListRules
from service.catalogue.changes import DeleteItem, PutItem
from service.catalogue.live import LiveItems
from service.catalogue.state import LiveState
from service.engine.messages import EngineRequest
from service.lists.fill import EMPTY, FILLED, complete, merge_each

PLANS = [ServingPlan(PromptPlan(num_steps=2), quotas=(2, 1)), ServingPlan(PromptPlan(num_steps=2))]


def hits(seed, num_users, depth=9):
    rng = np.random.default_rng(seed)
    rows = np.stack([[rng.permutation(30)[:depth] + 1 for _ in range(2)] for _ in range(num_users)])
    return Hits(rows, -np.sort(-rng.normal(size=rows.shape).astype(np.float32), axis=2))


@pytest.mark.parametrize("plan", PLANS)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_a_list_does_not_depend_on_the_lengths_of_others(plan, limits, seed):
    whole = hits(seed, len(limits))
    requests = [EngineRequest(History(()), limit) for limit in limits]
    merged = merge_each(requests, whole, plan, None)
    for number, request in enumerate(requests):
        own = Hits(whole.rows[number : number + 1], whole.scores[number : number + 1])
        [alone] = merge_each([request], own, plan, None)
        assert merged[number].rows.tolist() == alone.rows.tolist()
        assert len(alone.rows) == request.limit


@pytest.fixture
def state():
    return LiveState()


@pytest.fixture
def items(tiny, state):
    return LiveItems(tiny.catalogue, state)


def fill(items, limit=20, **more):
    return complete(items, EMPTY, EngineRequest(History(()), limit, **more))


def test_places_are_filled_by_popularity_and_say_so(items, tiny):
    listed = fill(items)
    assert listed.rows.tolist() == tiny.catalogue.by_popularity[:20].tolist()
    assert {*listed.sources.tolist()} == {FILLED}


def test_what_may_not_appear_does_not_fill(items, tiny):
    popular = tiny.catalogue.by_popularity[:5].tolist()
    assert not {*popular} & {*fill(items, excluded=frozenset(popular)).rows.tolist()}


def test_a_filter_holds_for_what_fills(items):
    rules = ListRules(filter=canonical({"language": "en"}))
    rows = fill(items, rules=rules).rows.tolist()
    assert len(rows) == 20
    assert all((row - 1) % 4 == 1 for row in rows)


def test_caps_hold_for_what_fills(items):
    rows = fill(items, rules=ListRules(caps=(Cap("author", 1),))).rows.tolist()
    assert len({(row - 1) // 10 for row in rows}) == len(rows) == 20


def test_a_catalogue_ends_and_so_does_a_list(items, tiny):
    assert len(fill(items, 10**4).rows) == len(tiny.catalogue.items)


def test_deleted_items_fill_no_place_and_new_ones_come_last(items, tiny, state):
    gone = tiny.catalogue.items.external([int(tiny.catalogue.by_popularity[0])])[0]
    state.advance(enumerate([DeleteItem(gone), PutItem(999)], start=1))
    ids = items.snapshot.column(fill(items, 10**4).rows).tolist()
    assert gone not in ids
    assert ids[-1] == 999
