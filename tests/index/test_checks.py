"""The refusals that all indexes share, and the hits that remain when some may not appear."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.base import Exclusions, Hits
from index.checks import check_allowed, check_items, check_search, empty_hits, first_permitted


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(4, dtype=np.float32),
        np.zeros((4, 2), dtype=np.float64),
        np.zeros((0, 2), dtype=np.float32),
        np.zeros((4, 0), dtype=np.float32),
    ],
)
def test_items_are_a_matrix_of_float32_that_is_not_empty(wrong):
    with pytest.raises(ValueError, match="item vectors must be \\(N, D\\) float32 and not empty"):
        check_items(wrong)


@pytest.mark.parametrize("wrong", [np.zeros((2, 3), dtype=np.float32), np.zeros((2, 4)), np.zeros(4, np.float32)])
def test_queries_have_the_width_and_type_of_the_items(wrong):
    with pytest.raises(ValueError, match="queries must be \\(Q, 4\\) float32"):
        check_search(wrong, 1, 4)


def test_a_search_wants_at_least_one_hit():
    with pytest.raises(ValueError, match="limit is 0; it must be at least 1"):
        check_search(np.zeros((1, 4), dtype=np.float32), 0, 4)


@pytest.mark.parametrize("wrong", [np.ones(3, dtype=np.bool_), np.ones(4, dtype=np.int8), np.ones((4, 1), np.bool_)])
def test_a_filter_is_one_boolean_an_item(wrong):
    with pytest.raises(ValueError, match="allowed must be \\(4,\\) bool"):
        check_allowed(wrong, 4)


def test_no_filter_is_none():
    check_allowed(None, 4)


@given(st.data())
def test_the_first_permitted_hits_are_those_of_a_loop(data):
    num_items, depth = 12, data.draw(st.integers(1, 12))
    order = [data.draw(st.permutations(range(1, num_items + 1)))[:depth] for _ in range(2)]
    num_empty = data.draw(st.integers(0, depth))
    rows = np.array([[*ranked[: depth - num_empty], *[0] * num_empty] for ranked in order], dtype=np.int64)
    scores = np.where(rows > 0, -np.arange(depth), -np.inf).astype(np.float32)
    pairs = sorted(data.draw(st.sets(st.tuples(st.integers(0, 1), st.integers(1, num_items)))))
    excluded = Exclusions(*(np.array([pair[n] for pair in pairs], dtype=np.int64) for n in (0, 1)))
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=num_items, max_size=num_items)), dtype=np.bool_)
    limit = data.draw(st.integers(1, depth))
    hits = first_permitted(Hits(rows, scores), limit, excluded, allowed)
    for query in range(2):
        kept = [row for row in rows[query].tolist() if row and allowed[row - 1] and (query, row) not in pairs][:limit]
        assert hits.rows[query].tolist() == kept + [0] * (limit - len(kept))
        assert np.isneginf(hits.scores[query, len(kept) :]).all()


def test_empty_hits_found_nothing():
    hits = empty_hits(2, 3)
    assert not hits.rows.any()
    assert np.isneginf(hits.scores).all()
