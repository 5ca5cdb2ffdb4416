"""A watched index answers as the index alone does, and learns its recall from one query of some batches."""

import numpy as np
import pytest

from index.base import Exclusions
from index.exact import ExactIndex
from index.watched import Mean, WatchedIndex

ITEMS = np.eye(6, dtype=np.float32)


class Blind(ExactIndex):
    """An index that never finds the first item."""

    def search(self, queries, limit, excluded=None, allowed=None):
        seen = np.ones(self.num_items, dtype=np.bool_) if allowed is None else allowed.copy()
        seen[0] = False
        return super().search(queries, limit, excluded, seen)


def queries(count=1):
    return np.tile(np.arange(6, 0, -1, dtype=np.float32), (count, 1))


def test_a_mean_of_few_values_is_their_mean():
    mean = Mean(memory=10)
    for value in (1.0, 0.0, 0.5):
        mean.add(value)
    assert (mean.count, mean.value) == (3, pytest.approx(0.5))


def test_a_mean_forgets_what_was_long_ago():
    mean = Mean(memory=5)
    for value in [0.0] * 100 + [1.0] * 40:
        mean.add(value)
    assert mean.value > 0.99


def test_one_query_of_every_third_batch_is_looked_at():
    watched = WatchedIndex(Blind(ITEMS), ExactIndex(ITEMS), every=3)
    for _ in range(10):
        watched.search(queries(4), 3)
    assert watched.recall.count == 3
    assert watched.recall.value == pytest.approx(2 / 3)


def test_the_answer_is_that_of_the_index_alone():
    watched = WatchedIndex(Blind(ITEMS), ExactIndex(ITEMS), every=1)
    assert watched.search(queries(), 3).rows.tolist() == [[2, 3, 4]]


def test_what_a_query_may_not_find_is_not_held_against_the_index():
    watched = WatchedIndex(Blind(ITEMS), ExactIndex(ITEMS), every=1)
    watched.search(queries(), 3, Exclusions(np.array([0]), np.array([1])))
    assert watched.recall.value == 1


def test_a_search_with_nothing_to_find_says_nothing():
    watched = WatchedIndex(Blind(ITEMS), ExactIndex(ITEMS), every=1)
    watched.search(queries(), 3, allowed=np.zeros(6, dtype=np.bool_))
    watched.search(queries(0), 3)
    assert watched.recall.count == 0
