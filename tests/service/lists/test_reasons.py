"""Reasons against a plain loop: the nearest items of a history, places among hits, tenths by popularity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.catalogue import Catalogue, IdMap
from model.records import SoftItems
from service.lists.reasons import MAX_HISTORY, NUM_SIMILAR, columns_of, deciles_of, nearest_of, reasons_of

# whole numbers, so that no order of addition rounds: products that nearly cancel would differ by more than a share may
VECTORS = np.random.default_rng(1).integers(-900, 901, (200, 5)).astype(np.float32)
ROWS = st.integers(1, 200)


def gather(rows):
    return VECTORS[rows - 1]


def told(history, listed, hits=((1, 2, 3),)):
    return reasons_of(history, np.array(listed, dtype=np.int64), np.array(hits, dtype=np.int64), gather)


@given(st.lists(ROWS, max_size=8), st.lists(ROWS, max_size=4, unique=True))
def test_shares_are_those_of_a_loop(history, listed):
    reasons = told(history, listed)
    for place, row in enumerate(listed):
        likeness = {own: max(float(VECTORS[row - 1] @ VECTORS[own - 1]), 0) for own in history}
        total = sum(likeness.values())
        best = sorted((value for value in likeness.values() if value > 0), reverse=True)[:NUM_SIMILAR]
        shares = [share for share in reasons.shares[place].tolist() if share]
        assert shares == pytest.approx([value / total for value in best], rel=1e-4)
        assert [own for own in reasons.similar[place].tolist() if own][: len(best)] == sorted(
            (own for own in likeness if likeness[own] > 0), key=lambda own: -likeness[own]
        )[: len(best)]


def test_an_item_watched_twice_counts_once():
    assert told([4, 4, 4], [9]).similar.tolist() == [[4, 0, 0]]


def test_only_the_newest_of_a_long_history_are_looked_at():
    old, new = [1] * 50, [2] * MAX_HISTORY
    assert 1 not in told(old + new, [1]).similar


def test_without_a_history_there_is_no_likeness():
    reasons = told([], [5, 6])
    assert not reasons.similar.any()
    assert reasons.ranks.shape == (2, 1)


@given(st.lists(st.permutations(range(1, 9)), min_size=1, max_size=3), st.lists(ROWS, min_size=1, max_size=5))
def test_ranks_are_the_places_among_the_hits(hits, listed):
    ranks = told([], listed, hits).ranks.tolist()
    assert ranks == [[own.index(row) + 1 if row in own else 0 for own in hits] for row in listed]


CATALOGUE = Catalogue(IdMap.of([f"i{n}" for n in range(20)]), IdMap.of(["u"]), np.arange(20, 0, -1, dtype=np.int64))


def test_tenths_go_from_the_most_popular_to_the_least_and_new_items_have_none():
    assert deciles_of(np.array([1, 2, 3, 20, 21]), CATALOGUE).tolist() == [1, 1, 2, 10, 0]


def test_columns_have_a_place_for_each_item_listed():
    # row 11 resembles both items of the history (7 and 1), row 4 the first alone (1 and -2)
    vectors = np.zeros((20, 2), np.float32)
    vectors[[0, 1, 10, 3]] = [(2, 1), (1, -2), (3, 1), (0, 1)]
    reasons = reasons_of([1, 2], np.array([11, 4]), np.array([[11, 9]]), lambda rows: vectors[rows - 1])
    assert columns_of(reasons, np.array([11, 4, 21]), CATALOGUE) == {
        "similar": [["i0", "i1"], ["i0"], []],
        "shares": [[0.875, 0.125], [1], []],
        "ranks": [[1], [None], []],
        "popularity": [6, 2, None],
    }


def test_nearest_items_of_soft_ones_are_told_in_external_ids():
    reasons = told([], [5])
    assert nearest_of(reasons, CATALOGUE, list) == nearest_of(None, CATALOGUE, list) == {}
    soft = SoftItems(np.array([[2, 1], [20, 3]]), np.array([[0.5, 0.25], [0.123456, 0.1]], np.float32))
    assert nearest_of(reasons._replace(soft=soft), CATALOGUE, lambda ids: [f"{own}!" for own in ids]) == {
        "nearest": {"items": [["i1!", "i0!"], ["i19!", "i2!"]], "weights": [[0.5, 0.25], [0.1235, 0.1]]}
    }


def test_a_list_that_was_filled_alone_has_empty_reasons():
    columns = columns_of(None, np.array([1, 2]), CATALOGUE)
    assert (columns["similar"], columns["shares"], columns["ranks"]) == ([[], []],) * 3
