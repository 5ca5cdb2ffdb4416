"""The measuring stick, by hand."""

import numpy as np
import pytest

from index.evaluate import measure_index, recall_of, time_search
from index.exact import ExactIndex
from index.faiss_index import FaissIndex


@pytest.mark.parametrize(
    ("found", "expected", "recall"),
    [
        ([[1, 2]], [[2, 1]], 1.0),
        ([[1, 2], [3, 4]], [[1, 9], [8, 9]], 0.25),
        ([[1, 2, 3, 4]], [[4, 9]], 0.5),
        ([[1, 0]], [[1, 0]], 1.0),  # padding is no hit and no miss
        ([[0, 0]], [[1, 2]], 0.0),
    ],
)
def test_recall_by_hand(found, expected, recall):
    assert recall_of(np.array(found), np.array(expected)) == recall


@pytest.mark.parametrize(("found", "expected"), [([[1]], [[1], [2]]), ([[1]], [[0]])])
def test_recall_of_nothing_is_an_error(found, expected):
    with pytest.raises(ValueError, match="quer"):
        recall_of(np.array(found), np.array(expected))


def test_exact_measured_against_itself(items, queries):
    index = ExactIndex(items)
    report = measure_index(index, index, queries, 10)
    assert (report.spec, report.k, report.recall, report.num_bytes) == ("exact", 10, 1.0, items.nbytes)
    assert report.query_us > 0


def test_a_smaller_index_reports_fewer_bytes(items, queries):
    exact = ExactIndex(items)
    report = measure_index(FaissIndex.build(items, "SQ8"), exact, queries, 10)
    assert report.num_bytes < exact.num_bytes / 2
    assert report.recall > 0.9


def test_time_is_the_median_a_query(items, queries, monkeypatch):
    ticks = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr("index.evaluate.perf_counter", lambda: next(ticks))
    assert time_search(ExactIndex(items), queries, 10, num_runs=3) == pytest.approx(2e6 / len(queries))
