"""The measuring stick, by hand."""

import numpy as np
import pytest

from index.evaluate import Probes, recall_of, time_search
from index.exact import ExactIndex
from index.faiss_index import FaissIndex


@pytest.mark.parametrize(
    ("rows", "expected", "recall"),
    [
        ([[1, 2]], [[2, 1]], 1.0),
        ([[1, 2], [3, 4]], [[1, 9], [8, 9]], 0.25),
        ([[1, 2, 3, 4]], [[4, 9]], 0.5),
        ([[1, 0]], [[1, 0]], 1.0),  # padding is no hit and no miss
        ([[0, 0]], [[1, 2]], 0.0),
    ],
)
def test_recall_by_hand(rows, expected, recall):
    assert recall_of(np.array(rows), np.array(expected)) == recall


@pytest.mark.parametrize(("rows", "expected"), [([[1]], [[1], [2]]), ([[1]], [[0]])])
def test_recall_of_nothing_is_an_error(rows, expected):
    with pytest.raises(ValueError, match="quer"):
        recall_of(np.array(rows), np.array(expected))


def test_exact_measured_against_itself(items, queries):
    index = ExactIndex(items)
    probes = Probes.of(index, queries, 10)
    assert probes.expected.shape == (len(queries), 10)
    assert probes.recall(index) == 1.0
    assert probes.query_us(index) > 0


def test_a_smaller_index_finds_most(items, queries):
    exact, small = ExactIndex(items), FaissIndex.build(items, "SQ8")
    assert small.num_bytes < exact.num_bytes / 2
    assert 0.9 < Probes.of(exact, queries, 10).recall(small) < 1


def test_only_the_first_queries_are_timed(items, queries, monkeypatch):
    index, sizes = ExactIndex(items), []
    search = index.search
    monkeypatch.setattr(index, "search", lambda vectors, limit: sizes.append(len(vectors)) or search(vectors, limit))
    Probes.of(index, queries, 10).query_us(index, batch=4, num_runs=2)
    assert sizes == [len(queries), 4, 4, 4]


def test_time_is_the_median_a_query(items, queries, monkeypatch):
    ticks = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr("index.evaluate.perf_counter", lambda: next(ticks))
    assert time_search(ExactIndex(items), queries, 10, num_runs=3) == pytest.approx(2e6 / len(queries))
