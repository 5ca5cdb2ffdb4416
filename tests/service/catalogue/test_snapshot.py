"""A bundle's items with all changes: ids, groups and numbers of rows, whether the bundle or a change brought them."""

import numpy as np
import pytest

from model.attributes.table import BadAttribute
from service.catalogue.changes import DeleteItem, PutItem
from service.catalogue.live import LiveItems
from service.catalogue.snapshot import NO_ATTRIBUTES, required
from service.catalogue.state import LiveState

NEW, NEWER = 900_001, 900_002


@pytest.fixture
def state():
    return LiveState()


@pytest.fixture
def items(tiny, state):
    return LiveItems(tiny.catalogue, state)


def put(state, *changes):
    state.advance(enumerate(changes, start=state.current.number + 1))


def test_without_changes_a_snapshot_is_the_bundle(items, tiny):
    snapshot = items.snapshot
    assert (snapshot.num_rows, snapshot.num_slots, snapshot.is_changed) == (len(tiny.catalogue.items), 0, False)
    assert snapshot.main.alive is None


def test_new_items_are_rows_behind_the_bundles(items, state, known):
    put(state, PutItem(NEW), PutItem(NEWER))
    rows = np.array([2, len(known) + 2, 1, len(known) + 1])
    assert items.snapshot.column(rows).tolist() == [known[1], NEWER, known[0], NEW]


def test_ids_in_either_form_are_rows(items, state, known):
    put(state, PutItem(NEW))
    assert items.snapshot.rows_of([known[4], str(NEW), 5]) == (5, len(known) + 1)
    assert items.snapshot.slot_rows_of([known[4], NEW]) == (len(known) + 1,)


def test_a_deleted_item_is_no_row_any_more(items, state, known):
    put(state, PutItem(NEW), DeleteItem(NEW), DeleteItem(known[0]))
    assert items.snapshot.slot_rows_of([NEW]) == ()
    assert not items.snapshot.is_alive(1)
    assert not items.snapshot.alive_slots.any()


def test_an_item_that_was_put_again_has_a_new_row(items, state, known):
    put(state, PutItem(NEW), PutItem(NEW))
    assert items.snapshot.slot_rows_of([NEW]) == (len(known) + 2,)
    assert items.snapshot.alive_slots.tolist() == [False, True]


def test_equal_values_are_one_group_wherever_their_item_came_from(items, state, known):
    put(state, PutItem(NEW, {"author": 7_000}), PutItem(NEWER, {"author": 1}), PutItem(3, {}))
    first, *new = items.snapshot.groups("author", [1, *range(len(known) + 1, len(known) + 4)])
    assert new[0] == first
    assert new[1] != first
    assert new[2] == ()


def test_numbers_are_those_of_the_item_or_none(items, state, known):
    put(state, PutItem(NEW, {"duration_s": 7}), PutItem(NEWER))
    rows = np.array([1, 2, len(known) + 1, len(known) + 2])
    numbers = items.snapshot.numbers("duration_s", rows)
    assert np.isnan(numbers).tolist() == [True, False, False, True]
    assert numbers[[1, 2]].tolist() == [6.0, 7.0]


def test_a_filter_looks_at_slots_that_are_alive(items, state):
    text = '{"author":{"in":[1]}}'
    put(state, PutItem(NEW, {"author": 1}), PutItem(NEWER, {"author": 2}), PutItem(3, {"author": 1}), DeleteItem(3))
    assert items.snapshot.slot_flags(text).tolist() == [True, False, False]
    assert items.snapshot.slot_flags(None).tolist() == [True, True, False]


def test_attributes_that_are_not_there_are_a_sentence():
    with pytest.raises(BadAttribute) as refused:
        required(None)
    assert str(refused.value) == NO_ATTRIBUTES


def test_a_snapshot_that_nobody_asked_for_is_kept_for_those_who_ask_late(tiny, state):
    asked = []

    def vectors(of):
        asked.append(of.number)
        return np.zeros((len(of.slots), 4), dtype=np.float32)

    items = LiveItems(tiny.catalogue, state, vectors)
    first = state.current.after([(1, PutItem(NEW))])
    items.prepare(first)
    state.become(first)
    second = first.after([(2, PutItem(NEWER))])
    items.prepare(second)
    assert items.snapshot.number == 1
    assert asked == [0, 1, 2]
