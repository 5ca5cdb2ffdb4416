"""The best of scores that are all there: as a sort would have it, ties in row order, in pieces or at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index import best
from index.base import Exclusions
from index.best import best_on_cpu

pytestmark = pytest.mark.usefixtures("code")  # NumPy's and C's

SCORES = st.integers(1, 30).flatmap(
    lambda n: st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=1, max_size=4)
)


def sorted_hits(scores, limit, hidden=frozenset(), allowed=None):
    """(rows, scores) of each query by a stable sort; what is hidden has -inf, what is not allowed is not there."""
    for query, values in enumerate(scores):
        ranked = [
            (-np.inf if (query, row) in hidden else value, row)
            for row, value in enumerate(values, start=1)
            if allowed is None or allowed[row - 1]
        ]
        yield sorted(ranked, key=lambda hit: (-hit[0], hit[1]))[:limit]


def hits_of(rows, scores):
    return [list(zip(s, r, strict=True)) for r, s in zip(rows.tolist(), scores.tolist(), strict=True)]


@given(SCORES, st.data())
def test_hits_are_those_of_a_sort(scores, data):
    limit = data.draw(st.integers(1, len(scores[0])))
    listed = best_on_cpu(np.array(scores, dtype=np.float32), limit)
    assert hits_of(*listed) == list(sorted_hits(scores, limit))


@given(SCORES, st.data())
def test_excluded_items_stand_behind_all_others(scores, data):
    num_items = len(scores[0])
    pairs = st.tuples(st.integers(0, len(scores) - 1), st.integers(1, num_items))
    hidden = data.draw(st.sets(pairs))
    excluded = Exclusions(*(np.array([pair[n] for pair in sorted(hidden)], dtype=np.int64) for n in (0, 1)))
    _, values = best_on_cpu(np.array(scores, dtype=np.float32), num_items, excluded)
    expected = [[value for value, _ in hits] for hits in sorted_hits(scores, num_items, hidden)]
    assert values.tolist() == expected


@given(SCORES, st.data())
def test_rows_that_do_not_pass_are_not_there(scores, data):
    num_items = len(scores[0])
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=num_items, max_size=num_items)), dtype=np.bool_)
    rows, values = best_on_cpu(np.array(scores, dtype=np.float32), num_items, allowed=allowed)
    for listed, expected in zip(hits_of(rows, values), sorted_hits(scores, num_items, allowed=allowed), strict=True):
        missing = num_items - len(expected)
        assert listed == expected + [(-np.inf, 0)] * missing


@pytest.mark.parametrize("together", [1, 2, 7])
def test_queries_that_are_selected_in_pieces_get_the_same(monkeypatch, together):
    scores = np.random.default_rng(0).integers(-5, 5, (7, 40)).astype(np.float32)
    whole = best_on_cpu(scores.copy(), 9)
    monkeypatch.setattr(best, "SELECTED", together * 40)
    for ours, theirs in zip(best_on_cpu(scores.copy(), 9), whole, strict=True):
        assert np.array_equal(ours, theirs)
