"""Planned filters: every plan against exact search over the passing rows, always full."""

import numpy as np
import pytest

from index.base import Exclusions
from index.evaluate import recall_of
from index.exact import ExactIndex
from index.faiss_index import FaissIndex, SearchEffort, load_faiss
from index.lists import ListsOfRows
from index.planned import PlannedIndex

LIMIT = 20
IVF = SearchEffort(nprobe=8)


@pytest.fixture(scope="module")
def exact(items):
    return ExactIndex(items)


@pytest.fixture(scope="module")
def lists(items):
    return FaissIndex.build(items, "IVF32,Flat", IVF)


def masks(items):
    rng = np.random.default_rng(2)
    half = items @ items[0] > np.median(items @ items[0])
    return {
        "none": np.zeros(len(items), bool),
        "one": np.arange(len(items)) == 5,
        "few": rng.random(len(items)) < 0.05,
        "a quarter": rng.random(len(items)) < 0.25,
        "half": rng.random(len(items)) < 0.5,
        "one side": half,
        "most": rng.random(len(items)) < 0.9,
        "all": np.ones(len(items), bool),
    }


def excluding(queries, mask):
    """The first three passing rows, and a row that does not pass, for every query."""
    rows = np.append(np.flatnonzero(mask)[:3], np.flatnonzero(~mask)[:1]) + 1
    return Exclusions(np.repeat(np.arange(len(queries)), len(rows)), np.tile(rows, len(queries)))


@pytest.mark.parametrize("name", list(masks(np.ones((2, 2), np.float32))))
@pytest.mark.parametrize("few_rows", [0, 100])
@pytest.mark.parametrize("spec", ["exact", "IVF32,Flat", "HNSW16"])
def test_a_filtered_list_is_full_and_finds_what_exact_search_finds(items, queries, exact, spec, few_rows, name):
    mask = masks(items)[name]
    inner = exact if spec == "exact" else FaissIndex.build(items, spec, IVF)
    excluded = excluding(queries, mask)
    hits = PlannedIndex(inner, exact, few_rows).search(queries, LIMIT, excluded, mask)
    expected = exact.search(queries, LIMIT, excluded, mask)
    assert ((hits.rows > 0).sum(1) == (expected.rows > 0).sum(1)).all()
    assert np.append(True, mask)[hits.rows].all()
    assert not np.isin(hits.rows, excluded.rows).any()
    if expected.rows.any():
        assert recall_of(hits.rows, expected.rows) >= (1 if spec == "exact" or name in ("one", "few") else 0.9)


def test_without_a_filter_the_index_answers_itself(queries, exact, lists):
    for mask in (None, np.ones(lists.num_items, bool)):
        ours, theirs = PlannedIndex(lists, exact).search(queries, LIMIT, None, mask), lists.search(queries, LIMIT)
        np.testing.assert_array_equal(ours.rows, theirs.rows)
        np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_a_query_far_from_all_passing_rows_still_finds_them(items, exact, lists):
    query = items[:1]
    far = items @ items[0] < np.quantile(items @ items[0], 0.3)
    hits = PlannedIndex(lists, exact, few_rows=0).search(query, LIMIT, None, far)
    assert recall_of(hits.rows, exact.search(query, LIMIT, None, far).rows) >= 0.9


def plan_of(exact, lists, mask):
    owners = ListsOfRows.of(lists, exact)
    return owners, owners.plan(np.flatnonzero(mask))


def test_queries_far_from_what_passes_visit_more_lists_and_others_no_more_than_without_a_filter(items, exact, lists):
    owners = ListsOfRows.of(lists, exact)
    cluster = np.isin(owners.list_of_row, range(12))
    plan = owners.plan(np.flatnonzero(cluster))
    assert plan.is_used.tolist() == [number < 12 for number in range(32)]
    assert plan.num_near * plan.thickness <= owners.num_visited + plan.thickness
    assert plan.num_far > plan.num_near
    everywhere = owners.plan(np.arange(0, len(items), 2))
    assert everywhere.num_far == everywhere.num_near > plan.num_near


def test_scores_of_copied_rows_are_those_of_their_vectors(items, queries, exact, lists):
    owners = ListsOfRows.of(lists, exact)
    places = np.arange(0, len(items), 3)
    passing = owners.passing(places, owners.plan(places))
    hits = passing.search(queries, LIMIT, None)
    expected = np.einsum("qkd,qd->qk", items[hits.rows - 1], queries)
    np.testing.assert_allclose(hits.scores, expected, rtol=1e-5)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert (hits.rows % 3 == 1).all()


def test_a_copy_takes_about_a_quarter_of_its_vectors(items, exact, lists):
    owners, plan = plan_of(exact, lists, np.ones(len(items), bool))
    passing = owners.passing(np.arange(len(items)), plan)
    assert len(items) * items.shape[1] <= passing.num_bytes <= 0.6 * items.nbytes + 32 * 4 * items.shape[1]


def test_every_row_is_in_the_list_that_faiss_put_it_into(items, exact, lists):
    owners, native = ListsOfRows.of(lists, exact), load_faiss().downcast_index(lists.native)
    assert owners.list_of_row.tolist() == native.quantizer.assign(items, 1)[:, 0].tolist()
    assert owners.sizes.tolist() == [native.invlists.list_size(number) for number in range(native.nlist)]
    assert ListsOfRows.of(FaissIndex.build(np.eye(16, dtype=np.float32), "HNSW16"), exact) is None


def test_many_filters_do_not_pile_up(items, queries, exact):
    index = PlannedIndex(exact, exact)
    for number in range(600):
        mask = np.arange(len(items)) == number
        assert index.search(queries[:1], 1, None, mask).rows[0, 0] == number + 1
    assert len(index._known) <= 256


@pytest.mark.parametrize("mask", [np.ones(3, bool), np.ones(900)])
def test_refuses_a_filter_of_another_shape(queries, exact, lists, mask):
    with pytest.raises(ValueError, match="allowed must be"):
        PlannedIndex(lists, exact).search(queries, 5, None, mask)
