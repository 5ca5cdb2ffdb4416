"""Requests as columns: the same users come back, in whatever parts they travel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.columns import Columns
from model.records import History

ROWS = st.integers(1, 1000)
USERS = st.lists(
    st.tuples(st.lists(ROWS, max_size=6).map(tuple), st.integers(0, 9), st.integers(0, 100), st.frozensets(ROWS)),
    min_size=1,
    max_size=6,
)


def columns_of(users):
    """Every second user's exclusions are the history itself, the same object."""
    histories = [History(items, user) for items, user, _, _ in users]
    excluded = [h.items if n % 2 else users[n][3] for n, h in enumerate(histories)]
    return Columns.of(histories, [limit for _, _, limit, _ in users], excluded), histories, excluded


@given(USERS)
def test_records_are_what_the_columns_were_made_of(users):
    columns, histories, excluded = columns_of(users)
    records = columns.records()
    assert [history for history, _, _ in records] == histories
    assert [limit for _, limit, _ in records] == [limit for _, _, limit, _ in users]
    assert [set(given) for _, _, given in records] == [set(given) for given in excluded]


@given(USERS, st.data())
def test_parts_joined_are_the_whole(users, data):
    columns, _, _ = columns_of(users)
    cut = data.draw(st.integers(1, columns.size))
    parts = [columns.part(slice(0, cut)), columns.part(slice(cut, None))]
    joined = Columns.join([part for part in parts if part.size])
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(joined, columns, strict=True))


@given(USERS, st.data())
def test_users_are_taken_in_any_order(users, data):
    columns, _, _ = columns_of(users)
    places = data.draw(st.permutations(range(columns.size)))
    records = columns.records()
    assert columns.take(places).records() == [records[place] for place in places]


@given(USERS, st.integers(1, 6))
def test_what_the_window_cuts_off_stays_excluded(users, length):
    columns, _, excluded = columns_of(users)
    shorter = columns.newest(length).records()
    assert [history.items for history, _, _ in shorter] == [items[-length:] for items, *_ in users]
    assert [set(given) for _, _, given in shorter] == [set(given) for given in excluded]


def test_a_history_that_is_its_own_exclusion_is_not_written_twice():
    history = History((4, 5, 6))
    columns = Columns.of([history], [10], [history.items])
    assert columns.own.tolist() == [True]
    assert not len(columns.others)
    [(same, _, excluded)] = columns.records()
    assert excluded is same.items


def test_others_stand_beside_a_history_that_is_excluded_as_well():
    columns = Columns.beside([History((4, 5)), History(())], [1, 1], [(9,), ()])
    assert columns.num_excluded.tolist() == [3, 0]
    assert [set(excluded) for _, _, excluded in columns.records()] == [{4, 5, 9}, set()]


@pytest.mark.parametrize("wrong", [2**31, -(2**31) - 1, 2**70])
def test_a_number_that_32_bits_do_not_hold_is_no_row(wrong):
    columns = Columns.of([History((3, wrong), wrong)], [5], [()])
    assert columns.items.tolist() == [3, -1]
    assert columns.users.tolist() == [-1]


def test_no_users_are_columns_too():
    columns = Columns.of([], [], [])
    assert columns.size == 0
    assert columns.records() == []
    assert columns.newest(5) is columns
