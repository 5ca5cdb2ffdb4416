"""The best of scores in C: those of a stable sort, whatever the scores, and nothing outside of them is touched."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.native.loops import LOADED

pytestmark = pytest.mark.skipif(LOADED.loops is None, reason=LOADED.reason)
NONE = np.empty(0, dtype=np.int64)


def best(scores, limit, queries=NONE, excluded=NONE):
    rows, values = np.empty((len(scores), limit), dtype=np.int64), np.empty((len(scores), limit), dtype=np.float32)
    LOADED.loops.best(scores, queries, excluded, rows, values)
    return rows, values


def by_a_sort(scores, limit):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :limit]
    return order + 1, np.take_along_axis(scores, order, 1)


KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "few": lambda rng, shape: rng.integers(-2, 3, shape),
    "equal": lambda rng, shape: np.zeros(shape),
    "signed zeros": lambda rng, shape: np.where(rng.random(shape) < 0.5, 0.0, -0.0),
    "rising": lambda rng, shape: np.arange(np.prod(shape)).reshape(shape),
    "falling": lambda rng, shape: -np.arange(np.prod(shape)).reshape(shape),
    "nearly all -inf": lambda rng, shape: np.where(rng.random(shape) < 0.99, -np.inf, rng.normal(size=shape)),
    "infinite": lambda rng, shape: rng.choice([np.inf, 0.0, -np.inf], shape),
    "tiny and huge": lambda rng, shape: rng.normal(size=shape) * 10.0 ** rng.integers(-44, 38, shape),
}


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32), st.integers(1, 3000), st.integers(1, 4), st.data())
def test_hits_are_those_of_a_stable_sort(kind, seed, num_items, num_queries, data):
    scores = KINDS[kind](np.random.default_rng(seed), (num_queries, num_items)).astype(np.float32)
    limit = data.draw(st.one_of(st.integers(1, num_items), st.integers(1, min(num_items, 20))))
    kept = scores.copy()
    rows, values = best(scores, limit)
    expected_rows, expected_values = by_a_sort(kept, limit)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(values.view(np.int32), expected_values.view(np.int32))
    np.testing.assert_array_equal(scores.view(np.int32), kept.view(np.int32))


def test_pairs_are_excluded():
    scores = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32)
    kept = scores.copy()
    kept[[0, 0, 2], [0, 499, 7]] = -np.inf
    rows, _ = best(scores, 500, np.array([0, 0, 2]), np.array([1, 500, 8]))
    np.testing.assert_array_equal(scores, kept)
    np.testing.assert_array_equal(rows, by_a_sort(kept, 500)[0])


@pytest.mark.parametrize(("query", "row"), [(-1, 1), (2, 1), (0, 0), (0, 41), (0, -1), (2**62, 1), (0, 2**62)])
def test_a_pair_that_is_not_there_is_refused(query, row):
    with pytest.raises(IndexError, match="not among the scores"):
        best(np.zeros((2, 40), dtype=np.float32), 3, np.array([query]), np.array([row]))


@pytest.mark.parametrize("number", [np.nan, -np.nan])
def test_scores_that_are_none_lead_out_of_no_array(number):
    scores = np.random.default_rng(0).normal(size=(2, 900)).astype(np.float32)
    scores[:, ::3] = number
    rows, _ = best(scores, 20)
    assert all(len({*own}) == 20 and min(own) >= 1 and max(own) <= 900 for own in rows.tolist())


def test_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="K <= N"):
        best(np.zeros((1, 4), dtype=np.float32), 5)


def test_nothing_is_written_where_nothing_is_wanted():
    assert best(np.zeros((0, 4), dtype=np.float32), 2)[0].shape == (0, 2)
    assert best(np.zeros((2, 4), dtype=np.float32), 0)[0].shape == (2, 0)
