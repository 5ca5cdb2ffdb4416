"""Search through 8 bits a number finds what scoring all items finds, to the last bit."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.base import Exclusions
from index.exact import ExactIndex
from model.native import sieve
from model.native.loops import LOADED, Loaded
from model.native.sieve import Sieve
from model.products import has_onednn

pytestmark = [
    pytest.mark.skipif(LOADED.loops is None or not LOADED.loops.CAN_SIFT, reason=LOADED.reason),
    pytest.mark.skipif(not has_onednn(), reason="scores are not oneDNN's"),
]
N = 3000


def clustered(rng, num_items, dim):
    centres = rng.normal(size=(40, dim))
    return (centres[rng.integers(40, size=num_items)] + 0.5 * rng.normal(size=(num_items, dim))).astype(np.float32)


KINDS = {
    "clustered": lambda rng, dim: clustered(rng, N, dim),
    "of many lengths": lambda rng, dim: clustered(rng, N, dim) * np.float32(10.0) ** rng.integers(-3, 3, (N, 1)),
    "with copies": lambda rng, dim: np.repeat(clustered(rng, N // 3, dim), 3, axis=0),
    "whole": lambda rng, dim: rng.integers(-2, 3, (N, dim)).astype(np.float32),
    "of one outlier": lambda rng, dim: np.where(rng.random((N, dim)) < 0.02, 50, rng.normal(size=(N, dim))),
    "tiny": lambda rng, dim: clustered(rng, N, dim) * np.float32(1e-9),
    "some nothing": lambda rng, dim: clustered(rng, N, dim) * (rng.random((N, 1)) < 0.5),
}


def both(vectors):
    """An index that sifts, and one that does not."""
    ways = ExactIndex(vectors), ExactIndex(vectors.copy(), sifts=False)
    assert ways[0]._sieve is not None
    assert ways[1]._sieve is None
    return ways


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 17, 64])
@pytest.mark.parametrize("num_queries", [1, 2, 3, 4])
def test_hits_are_those_of_all_scores(kind, dim, num_queries, monkeypatch):
    monkeypatch.setattr("index.exact.MOST_NAMED", 200)
    rng = np.random.default_rng(dim * num_queries)
    vectors = KINDS[kind](rng, dim).astype(np.float32)
    sifting, plain = both(vectors)
    for limit in (1, 30, 150, N - 3, N + 2):
        queries = vectors[rng.choice(N, num_queries)] + 0.3 * rng.normal(size=(num_queries, dim)).astype(np.float32)
        whose = np.repeat(np.arange(num_queries), 40)
        rows = np.concatenate([rng.choice(N, 40, replace=False) + 1 for _ in range(num_queries)])
        # few rows left out by a filter are named to the sieve, too many are left to a product
        few, many = rng.random(N) > 0.01, rng.random(N) > 0.6
        for excluded, allowed in product((None, Exclusions(whose, rows)), (None, few, many)):
            ours, theirs = (index.search(queries, limit, excluded, allowed) for index in (sifting, plain))
            np.testing.assert_array_equal(ours.rows, theirs.rows)
            np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_few_are_scored(monkeypatch):
    """Otherwise the tests above would compare a product with itself."""
    vectors = clustered(np.random.default_rng(1), N, 64)
    sifting, _ = both(vectors)
    sifting.search(vectors[:1], 1)
    monkeypatch.setattr(ExactIndex, "_scores", lambda *_: pytest.fail("a product of all items"))
    hits = sifting.search(vectors[:2], 50)
    assert hits.rows[:, 0].tolist() == [1, 2]


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_score_lies_within_its_margin(seed, dim):
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(50, dim)) * 10.0 ** rng.integers(-12, 12, (50, 1))).astype(np.float32)
    query = rng.normal(size=dim).astype(np.float32)
    codes, scales, margins = sieve._rounded(vectors)
    rounded = codes.reshape(4, -1, 16, 2).swapaxes(1, 2).reshape(64, -1)[:50, :dim]
    close = (rounded * scales[:50, None].astype(np.float64)) @ query
    exact = vectors.astype(np.float64) @ query
    assert (np.abs(close - exact) <= margins[:50] * np.linalg.norm(query)).all()


@pytest.mark.parametrize("number", [np.nan, np.inf, 3e38, 1e-30, 0])
def test_a_query_that_is_too_large_or_too_small_is_left_to_a_product(number):
    vectors = clustered(np.random.default_rng(1), N, 8)
    own = both(vectors)[0]._sieve
    none = np.empty(0, dtype=np.int64)
    assert own.search(np.full((1, 8), number, dtype=np.float32), 5, (none, none)) is None


@pytest.mark.parametrize("change", [lambda scores: scores + 1e-7, lambda scores: -scores])
def test_scores_of_another_product_are_not_sifted(change):
    vectors = clustered(np.random.default_rng(1), N, 8)
    assert Sieve.of(vectors, lambda queries: change(queries @ vectors.T)) is None


@pytest.mark.parametrize("number", [np.inf, np.nan, 1e-40, 1e20])
def test_items_that_lose_their_digits_are_not_sifted(number):
    vectors = clustered(np.random.default_rng(1), N, 8)
    vectors[5] = number
    assert Sieve.of(vectors, lambda queries: queries @ vectors.T) is None


def test_wide_vectors_are_not_sifted():
    assert Sieve.of(np.ones((50, sieve.MAX_DIM + 1), dtype=np.float32), lambda queries: queries) is None


def test_nothing_is_sifted_in_numpy(monkeypatch):
    monkeypatch.setattr(sieve, "LOADED", Loaded(None, "NumPy, by a test"))
    assert ExactIndex(clustered(np.random.default_rng(1), N, 8))._sieve is None


def test_a_part_is_not_sifted():
    assert ExactIndex(clustered(np.random.default_rng(1), N, 8)).part(np.arange(2000))._sieve is None


def test_a_row_that_is_not_there_is_refused():
    own = both(clustered(np.random.default_rng(1), N, 8))[0]
    with pytest.raises(IndexError, match="not among the scores"):
        own.search(np.ones((1, 8), dtype=np.float32), 5, Exclusions(np.array([0]), np.array([N + 1])))


def test_sizes_that_do_not_fit_are_refused():
    own = both(clustered(np.random.default_rng(1), N, 8))[0]._sieve
    none = np.empty(0, dtype=np.int64)
    for queries, limit in ((np.ones((5, 8)), 3), (np.ones((1, 7)), 3), (np.ones((0, 8)), 3), (np.ones((1, 8)), N + 1)):
        with pytest.raises(ValueError, match="do not fit"):
            own.search(queries.astype(np.float32), limit, (none, none))
