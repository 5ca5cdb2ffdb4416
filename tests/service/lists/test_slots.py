"""A search of slots finds the same whether they are scored one by one or stand in an index."""

import numpy as np
import pytest

from index.base import Exclusions
from index.exact import ExactIndex
from model.attributes.filters import canonical
from service.catalogue import live
from service.catalogue.changes import DeleteItem, PutItem
from service.catalogue.live import LiveItems
from service.catalogue.slot_vectors import GrowingRows
from service.catalogue.state import LiveState
from service.lists.slots import products, search_slots

NEW, D, M = 900_000, 8, 60


class Given:
    """Vectors of slots that a test may change."""

    def __init__(self):
        self.rng, self.rows = np.random.default_rng(4), GrowingRows(D)
        self.table = self.rows.none

    def of(self, state):
        drawn = {n: self.rng.normal(size=D).astype(np.float32) for n in range(len(self.table), len(state.slots))}
        self.table = self.rows.with_rows(self.table, len(state.slots), drawn)
        return self.table

    def move(self, slot):
        self.table = self.rows.with_rows(self.table, len(self.table), {slot: -self.table[slot]})


@pytest.fixture
def state():
    return LiveState()


@pytest.fixture
def given():
    return Given()


@pytest.fixture
def items(tiny, state, given, monkeypatch):
    monkeypatch.setattr(live, "FOLDED_AT", 40)
    return LiveItems(tiny.catalogue, state, given.of, ExactIndex)


def put(state, *changes):
    state.advance(enumerate(changes, start=state.current.number + 1))


def puts(count, first=0):
    return [PutItem(NEW + first + n, {"author": n % 3}) for n in range(count)]


def checked(items, given, text=None, depth=12):
    """The hits of a search, compared with the order of all scores."""
    snapshot = items.snapshot
    queries = np.random.default_rng(6).normal(size=(3, D)).astype(np.float32)
    rows = snapshot.num_main + 1 + np.array([0, 7, len(given.table) - 1])
    hits = search_slots(snapshot, queries, depth, Exclusions(np.array([0, 1, 1]), rows), text)
    scores = np.where(snapshot.slot_flags(text), queries @ given.table.T, -np.inf)
    scores[[0, 1, 1], rows - snapshot.num_main - 1] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    real = np.isfinite(np.take_along_axis(scores, order, 1))
    assert np.array_equal(hits.rows, np.where(real, order + snapshot.num_main + 1, 0))
    return hits.rows


def test_folding_changes_no_list(items, state, given):
    put(state, *puts(M))
    before = checked(items, given)
    items.fold()
    assert len(items.snapshot.table.folded) == M
    assert np.array_equal(checked(items, given), before)


def test_what_comes_changes_and_goes_afterwards_is_found_or_not(items, state, given):
    put(state, *puts(M))
    items.fold()
    put(state, *puts(9, first=M), DeleteItem(NEW + 3), PutItem(NEW + 5))
    given.move(11)
    items.refresh()
    table = items.snapshot.table
    assert (len(table.folded), table.num_moved, len(table.rest)) == (M, 1, 11)
    checked(items, given)


@pytest.mark.parametrize("body", [{"author": 1}, {"author": {"in": [0, 1]}}, {"author": 99}])
def test_filters_hold_among_folded_slots(items, state, given, body):
    put(state, *puts(M))
    items.fold()
    put(state, *puts(5, first=M))
    checked(items, given, canonical(body), depth=40)


def test_slots_are_folded_when_enough_have_come(items, state):
    put(state, *puts(39))
    items.fold()
    assert items.snapshot.table.folded is None
    put(state, *puts(1, first=39))
    items.fold()
    first = items.snapshot.table.folded
    put(state, *puts(39, first=40))
    items.fold()
    assert items.snapshot.table.folded is first
    put(state, *puts(1, first=79))
    items.fold()
    assert len(items.snapshot.table.folded) == 80


def test_where_nothing_can_be_folded_all_slots_are_scored(tiny, state, given, monkeypatch):
    monkeypatch.setattr(live, "FOLDED_AT", 40)
    items = LiveItems(tiny.catalogue, state, given.of)
    put(state, *puts(M))
    items.fold()
    assert items.snapshot.table.folded is None
    checked(items, given)


@pytest.mark.parametrize("num_rows", [1, 7, 100, 1000, 4096])
def test_a_query_has_the_same_scores_alone_and_in_a_batch(num_rows):
    rng = np.random.default_rng(num_rows)
    vectors, queries = (rng.normal(size=(n, 64)).astype(np.float32) for n in (num_rows, 37))
    whole = products(queries, vectors)
    alone = np.concatenate([products(queries[n : n + 1].copy(), vectors) for n in range(len(queries))])
    np.testing.assert_array_equal(whole, alone)
    np.testing.assert_allclose(whole, queries @ vectors.T, rtol=1e-4, atol=1e-4)
