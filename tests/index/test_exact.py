"""Brute force against a sort written in NumPy, with ties, chunks and padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from index import best, exact
from index.base import Exclusions
from index.exact import ExactIndex

pytestmark = pytest.mark.usefixtures("code")  # NumPy's and C's

whole = st.integers(-2, 2).map(float)  # few values, so that scores tie


def oracle(items, queries, k):
    scores = queries @ items.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order + 1, np.take_along_axis(scores, order, axis=1)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 30), st.just(3)), elements=whole),
    arrays(np.float32, st.tuples(st.integers(0, 5), st.just(3)), elements=whole),
    st.integers(1, 40),
)
def test_orders_by_score_then_row_also_at_the_cut(items, queries, k):
    hits = ExactIndex(items).search(queries, k)
    rows, scores = oracle(items, queries, k)
    np.testing.assert_array_equal(hits.rows[:, : len(items)], rows)
    np.testing.assert_array_equal(hits.scores[:, : len(items)], scores)


def test_agrees_with_numpy_on_real_scores(items, queries):
    hits = ExactIndex(items).search(queries, 50)
    rows, scores = oracle(items, queries, 50)
    np.testing.assert_array_equal(hits.rows, rows)
    np.testing.assert_allclose(hits.scores, scores, rtol=1e-5)


def test_pads_with_row_0_beyond_n(queries):
    hits = ExactIndex(np.eye(16, dtype=np.float32)).search(queries, 20)
    assert (hits.rows[:, :16] > 0).all()
    assert (hits.rows[:, 16:] == 0).all()
    assert np.isneginf(hits.scores[:, 16:]).all()


def test_a_query_scores_the_same_to_the_last_bit_in_any_batch(items, queries, one_thread):
    index = ExactIndex(items)
    whole = index.search(queries, 10)
    for size in (1, 3, 16):
        parts = [index.search(queries[start : start + size], 10) for start in range(0, len(queries), size)]
        np.testing.assert_array_equal(np.concatenate([part.scores for part in parts]), whole.scores)


def test_every_pass_has_one_of_few_shapes(items, queries, monkeypatch, one_thread):
    index, shapes, product = ExactIndex(items), [], exact.torch.mm
    assert exact.QUERIES_PER_PASS["cpu"] in index.pass_sizes
    monkeypatch.setattr(
        exact.torch, "mm", lambda part, *rest, out: shapes.append(len(part)) or product(part, *rest, out=out)
    )
    for num_queries in (1, 4, 5, 16, 17, 30):
        index.search(np.resize(queries, (num_queries, items.shape[1])), 10)
    assert set(shapes) <= set(index.pass_sizes)


def test_a_pass_that_scores_otherwise_is_not_used(items, queries, monkeypatch, one_thread):
    product = exact.torch.mm

    def rounds_small_passes(part, *rest, out):
        return product(part, *rest, out=out).add_(1e-7 * (len(part) < exact.QUERIES_PER_PASS["cpu"]))

    monkeypatch.setattr(exact.torch, "mm", rounds_small_passes)
    index = ExactIndex(items)
    assert index.pass_sizes == (exact.QUERIES_PER_PASS["cpu"],)
    np.testing.assert_array_equal(index.search(queries[:1], 5).scores, index.search(queries, 5).scores[:1])


def excluded_at_random(num_queries, num_items, seed=0):
    """Some queries may not find a third of the items, one may not find any, some may find all."""
    may = np.random.default_rng(seed).random((num_queries, num_items)) < 2 / 3
    may[::3], may[1] = True, False
    queries, places = (~may).nonzero()
    return Exclusions(queries, places + 1), may


def test_excluded_items_are_not_found_and_do_not_shorten_a_list(items, queries):
    excluded, may = excluded_at_random(len(queries), len(items))
    hits = ExactIndex(items).search(queries, 50, excluded)
    scores = np.where(may, queries @ items.T, -np.inf)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :50] + 1
    rows[1] = 0
    np.testing.assert_array_equal(hits.rows, rows)
    assert np.isneginf(hits.scores[1]).all()


def test_takes_read_only_vectors_and_queries(items, queries):
    frozen, asked = items.copy(), queries.copy()
    frozen.setflags(write=False)
    asked.setflags(write=False)
    np.testing.assert_array_equal(ExactIndex(frozen).search(asked, 3).rows, ExactIndex(items).search(queries, 3).rows)


def test_knows_its_size(items):
    index = ExactIndex(items)
    assert (index.spec, index.num_items, index.dim, index.num_bytes) == ("exact", 900, 16, 900 * 16 * 4)


@pytest.mark.parametrize(
    ("shape", "k", "reason"), [((2, 15), 1, "must be"), ((16,), 1, "must be"), ((2, 16), 0, "limit is 0")]
)
def test_refuses_wrong_queries(items, shape, k, reason):
    with pytest.raises(ValueError, match=reason):
        ExactIndex(items).search(np.zeros(shape, dtype=np.float32), k)


@pytest.mark.parametrize("vectors", [np.zeros((0, 4), np.float32), np.zeros(4, np.float32), np.zeros((4, 4))])
def test_refuses_vectors_that_are_no_items(vectors):
    with pytest.raises(ValueError, match="item vectors must be"):
        ExactIndex(vectors)


def test_selecting_in_parts_finds_the_same(items, queries, monkeypatch):
    index = ExactIndex(items)
    whole = index.search(queries, 7)
    monkeypatch.setattr(best, "SELECTED", 2 * len(items))
    parts = index.search(queries, 7)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_array_equal(parts.scores, whole.scores)


@pytest.mark.parametrize(
    "change", [lambda t: t + 1, lambda t: t[:-1], lambda t: t.double(), lambda t: t.T.contiguous().T]
)
def test_stays_in_its_own_memory_where_the_numbers_are_others(items, change):
    index = ExactIndex(items)
    assert index.over(change(torch.from_numpy(items.copy()))) is index


def test_moves_into_the_memory_of_the_same_numbers(items, queries):
    index, table = ExactIndex(items), torch.from_numpy(items.copy())
    moved = index.over(table)
    assert np.shares_memory(moved.vectors, table.numpy())
    assert np.shares_memory(index.vectors, items)
    np.testing.assert_array_equal(moved.search(queries, 9).scores, index.search(queries, 9).scores)


def filters(num_items):
    rng = np.random.default_rng(5)
    one_row = np.arange(num_items) == 17
    return {"half": rng.random(num_items) < 0.5, "few": rng.random(num_items) < 0.02, "single": one_row}


@pytest.mark.parametrize("name", ["half", "few", "single"])
@pytest.mark.parametrize("with_exclusions", [False, True])
def test_a_filtered_search_is_the_search_of_the_allowed_rows_alone(items, queries, name, with_exclusions):
    allowed = filters(len(items))[name]
    excluded, may = excluded_at_random(len(queries), len(items)) if with_exclusions else (None, True)
    hits = ExactIndex(items).search(queries, 30, excluded, allowed)
    scores = np.where(may & allowed, queries @ items.T, -np.inf)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :30] + 1
    rows[np.isneginf(np.take_along_axis(scores, rows - 1, 1))] = 0
    np.testing.assert_array_equal(hits.rows, rows)
    assert np.isneginf(hits.scores[rows == 0]).all()
    if not with_exclusions:
        alone = ExactIndex(items[allowed]).search(queries, 30)
        names = np.append(0, np.flatnonzero(allowed) + 1)
        np.testing.assert_array_equal(hits.rows, names[alone.rows])


def test_an_empty_filter_finds_nothing(items, queries):
    hits = ExactIndex(items).search(queries, 5, None, np.zeros(len(items), dtype=bool))
    assert not hits.rows.any()
    assert np.isneginf(hits.scores).all()


def test_a_filter_that_allows_all_changes_no_bit(items, queries):
    plain, filtered = (
        ExactIndex(items).search(queries, 30, None, allowed) for allowed in (None, np.ones(len(items), bool))
    )
    np.testing.assert_array_equal(filtered.rows, plain.rows)
    np.testing.assert_array_equal(filtered.scores, plain.scores)


@pytest.mark.parametrize("allowed", [np.ones(899, bool), np.ones(900), np.ones((900, 1), bool)])
def test_refuses_a_filter_of_another_shape(items, queries, allowed):
    with pytest.raises(ValueError, match=r"allowed must be \(900,\) bool"):
        ExactIndex(items).search(queries, 5, None, allowed)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=whole),
    arrays(np.float32, (4, 3), elements=whole),
    st.integers(1, 40),
    st.data(),
)
def test_the_search_of_a_gpu_takes_the_same_filters(items, queries, limit, data):
    """Its torch form, on the CPU, with ties."""
    limit = min(limit, len(items))
    allowed = data.draw(arrays(np.bool_, len(items)))
    pairs = sorted(data.draw(st.sets(st.tuples(st.integers(0, 3), st.integers(1, len(items))), max_size=20)))
    excluded = Exclusions(*np.array(pairs, dtype=np.int64).reshape(-1, 2).T)
    rows, scores = exact.best_on_gpu(torch.from_numpy(queries), torch.from_numpy(items), limit, excluded, allowed)
    expected = ExactIndex(items).search(queries, limit, excluded, allowed)
    np.testing.assert_array_equal(np.where(np.isneginf(scores), 0, rows), expected.rows)
    np.testing.assert_array_equal(scores, expected.scores)
