"""Excluded pairs: how many a query has, those of a run of queries, those of the first rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from index.base import Exclusions, OuterIndex
from index.exact import ExactIndex

PAIRS = st.sets(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=30).map(sorted)


def exclusions(pairs):
    return Exclusions(*(np.array([pair[n] for pair in pairs], dtype=np.int64) for n in (0, 1)))


def pairs_of(excluded):
    return list(zip(excluded.queries.tolist(), excluded.rows.tolist(), strict=True))


@given(PAIRS)
def test_the_most_is_that_of_the_query_with_most(pairs):
    queries = [query for query, _ in pairs]
    assert exclusions(pairs).most == max((queries.count(query) for query in queries), default=0)


@given(PAIRS, st.integers(0, 6), st.integers(0, 6))
def test_a_run_of_queries_counts_from_its_start(pairs, start, length):
    part = exclusions(pairs).within(slice(start, start + length))
    assert pairs_of(part) == [(q - start, row) for q, row in pairs if start <= q < start + length]


@given(PAIRS, st.integers(0, 9))
def test_rows_behind_the_last_are_left_out(pairs, num_rows):
    assert pairs_of(exclusions(pairs).up_to(num_rows)) == [(q, row) for q, row in pairs if row <= num_rows]


def test_nothing_left_out_is_the_same_object():
    excluded = exclusions([(0, 3)])
    assert excluded.up_to(3) is excluded


def test_an_outer_index_is_named_and_sized_like_the_inner_one():
    inner = ExactIndex(np.ones((5, 3), dtype=np.float32))
    outer = OuterIndex(inner)
    assert (outer.spec, outer.num_items, outer.dim) == ("exact", 5, 3)
