"""Rows that came later are searched as those of the index that they came to: in lists around its centres, or all."""

import numpy as np
import pytest

from index.evaluate import recall_of
from index.exact import ExactIndex
from index.faiss_index import FaissIndex, SearchEffort
from index.folded import index_like, lists_like
from index.planned import PlannedIndex
from recall.bench.index import clustered

D = 16
EFFORT = SearchEffort(nprobe=8, ef_search=64)


@pytest.fixture(scope="module")
def vectors():
    return clustered(6000, D, 0)


@pytest.fixture(scope="module")
def lists(vectors):
    main = FaissIndex.build(vectors[:4000], "IVF32,Flat", EFFORT)
    return lists_like(PlannedIndex(main, ExactIndex(vectors[:4000])), vectors[4000:])


def test_rows_that_came_later_are_found_without_training(vectors, lists):
    hits, expected = lists.search(vectors[:40], 50), ExactIndex(vectors[4000:]).search(vectors[:40], 50)
    assert lists.num_items == 2000
    assert recall_of(hits.rows, expected.rows) > 0.9


def test_with_all_lists_visited_the_hits_are_the_exact_ones(vectors, lists):
    whole = lists.with_effort(SearchEffort(nprobe=32, ef_search=64))
    hits, expected = whole.search(vectors[:40], 50), ExactIndex(vectors[4000:]).search(vectors[:40], 50)
    assert np.array_equal(hits.rows, expected.rows)


@pytest.mark.parametrize("spec", ["HNSW8,Flat", "exact"])
def test_other_kinds_have_no_lists(vectors, spec):
    rows = vectors[:500]
    index = ExactIndex(rows) if spec == "exact" else FaissIndex.build(rows, spec, EFFORT)
    assert lists_like(index, rows) is None


@pytest.mark.parametrize("spec", ["HNSW8,Flat", "exact"])
def test_beside_other_kinds_later_rows_are_searched_exactly(vectors, spec):
    rows = vectors[:500]
    index = ExactIndex(rows) if spec == "exact" else FaissIndex.build(rows, spec, EFFORT)
    later = index_like(PlannedIndex(index, ExactIndex(rows)), vectors[500:1500])
    hits, expected = later.search(vectors[:5], 50), ExactIndex(vectors[500:1500]).search(vectors[:5], 50)
    assert isinstance(later, ExactIndex)
    assert np.array_equal(hits.rows, expected.rows)
    assert np.array_equal(hits.scores, expected.scores)


def test_beside_lists_later_rows_get_lists(vectors):
    main = FaissIndex.build(vectors[:4000], "IVF32,Flat", EFFORT)
    assert index_like(main, vectors[4000:]).spec == "IVF32,Flat"
