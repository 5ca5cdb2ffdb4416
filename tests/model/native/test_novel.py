"""Maximal marginal relevance in C: ties to the last bit, and numbers that nobody should send."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.native.loops import LOADED

pytestmark = pytest.mark.skipif(LOADED.loops is None, reason=LOADED.reason)
few = st.integers(-2, 2).map(float)  # few values: scores, vectors and likenesses tie


def definition(scores, vectors, before, share, limit):
    """All hits against all items taken, with likenesses of one rounding where vectors are small whole numbers."""
    own, low, high = vectors.astype(np.float64), float(scores.min()), float(scores.max())
    flat = np.full(len(scores), 1 - share)
    relevance = (scores.astype(np.float64) - low) * ((1 - share) / (high - low)) if high > low else flat
    lengths, taken, worth = np.maximum(np.linalg.norm(own, axis=1), 1e-12), [], relevance.copy()

    def lower(vector, length):
        np.minimum(worth, relevance - share * (own @ vector / (lengths * length)), out=worth)

    for vector in before.astype(np.float64):
        lower(vector, max(float(np.linalg.norm(vector)), 1e-12))
    while len(taken) < min(limit, len(scores)):
        worth[taken] = -np.inf
        taken.append(int(np.argmax(worth)))
        lower(own[taken[-1]], lengths[taken[-1]])
    return taken


@given(st.data(), st.integers(1, 70), st.integers(1, 19), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_ties_are_taken_in_the_order_of_the_hits(data, num_hits, dim, share):
    scores = data.draw(arrays(np.float32, num_hits, elements=few))
    vectors = data.draw(arrays(np.float32, (num_hits, dim), elements=few))
    before = data.draw(arrays(np.float32, (data.draw(st.integers(0, 2)), dim), elements=few))
    limit = data.draw(st.integers(0, num_hits + 3))
    chosen = LOADED.loops.most_novel(scores, vectors, before, share, limit, None)
    assert chosen == definition(scores, vectors, before, share, limit)


@pytest.mark.parametrize("seed", range(8))
def test_hits_that_single_precision_cannot_tell_apart_are_decided(seed):
    rng = np.random.default_rng(seed)
    vectors = np.repeat(rng.normal(size=(30, 64)).astype(np.float32), 5, axis=0)
    vectors[1::5] *= 3  # of the same direction
    vectors[2::5, 0] += np.float32(1e-7)
    scores = np.repeat(rng.normal(size=30).astype(np.float32), 5)
    none = np.empty((0, 64), dtype=np.float32)
    # likenesses of copies round differently in the double precision of NumPy: their order may differ, their worth not
    chosen = LOADED.loops.most_novel(scores, vectors, none, 0.5, 30, None)
    expected = definition(scores, vectors, none, 0.5, 30)
    assert [place // 5 for place in chosen] == [place // 5 for place in expected]


def test_equal_hits_are_taken_in_their_order():
    vectors = np.repeat(np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32), 50, axis=0)
    scores, none = np.ones(100, dtype=np.float32), np.empty((0, 7), dtype=np.float32)
    # one of either, then all are worth as much as the others
    chosen = LOADED.loops.most_novel(scores, vectors, none, 0.4, 100, None)
    assert chosen == [0, 50, *range(1, 50), *range(51, 100)]


def test_vectors_of_length_0_are_like_nothing():
    scores, vectors = np.arange(40, dtype=np.float32), np.zeros((40, 5), dtype=np.float32)
    assert LOADED.loops.most_novel(scores, vectors, vectors[:3], 0.9, 99, None) == [*range(39, -1, -1)]


@pytest.mark.parametrize("where", ["scores", "vectors", "before"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_overflow_or_are_none_lead_out_of_no_array(where, number):
    rng = np.random.default_rng(1)
    given_arrays = {
        "scores": rng.normal(size=90).astype(np.float32),
        "vectors": rng.normal(size=(90, 9)).astype(np.float32),
        "before": rng.normal(size=(3, 9)).astype(np.float32),
    }
    given_arrays[where][1::4] = number
    chosen = LOADED.loops.most_novel(*given_arrays.values(), 0.4, 50, None)
    assert len({*chosen}) == len(chosen) <= 50
    assert all(0 <= place < 90 for place in chosen)
