"""Coverage, overlap and the recall of an approximate index, as they are read while answers are given."""

import re
import time

import numpy as np
import pytest

from index.base import Exclusions
from index.exact import ExactIndex
from index.faiss_index import FaissIndex, SearchEffort
from index.watched import Mean, WatchedIndex
from service.telemetry import quality
from service.telemetry.quality import Coverage

ITEMS = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)
LIMIT_S = 20


def test_a_mean_of_few_values_is_their_mean_and_of_many_forgets():
    mean = Mean(memory=10)
    for value in (1.0, 2.0, 6.0):
        mean.add(value)
    assert mean.value == pytest.approx(3.0)
    for _ in range(200):
        mean.add(5.0)
    assert mean.value == pytest.approx(5.0, abs=1e-6)


def test_coverage_is_what_was_shown_in_this_window_and_the_last():
    now = [0.0]
    coverage = Coverage(10, clock=lambda: now[0])
    assert coverage.share == 0.0
    coverage.add(np.array([1, 2, 10]))
    coverage.add(np.array([2, 3]))
    assert coverage.share == pytest.approx(0.4)
    now[0] = quality.WINDOW_S
    coverage.add(np.array([5]))
    assert coverage.share == pytest.approx(0.5)
    now[0] = 2 * quality.WINDOW_S
    coverage.add(np.array([6]))
    assert coverage.share == pytest.approx(0.2)


def test_a_watched_index_answers_as_it_is_and_knows_what_it_finds():
    poor = FaissIndex.build(ITEMS, "IVF64,Flat", SearchEffort(nprobe=2))
    watched = WatchedIndex(poor, ExactIndex(ITEMS), every=1)
    for query in QUERIES:
        np.testing.assert_array_equal(watched.search(query[None], 20).rows, poor.search(query[None], 20).rows)
    assert watched.recall.count == len(QUERIES)
    assert 0.0 < watched.recall.value < 0.9
    assert (watched.spec, watched.num_items, watched.dim) == (poor.spec, 3000, 16)


def test_what_is_excluded_is_not_missed():
    excluded = Exclusions(np.zeros(2999, dtype=np.int64), np.arange(1, 3000))
    watched = WatchedIndex(FaissIndex.build(ITEMS, "Flat"), ExactIndex(ITEMS), every=1)
    watched.search(QUERIES[:1], 5, excluded)
    assert watched.recall.value == 1.0


def test_only_some_batches_are_watched():
    watched = WatchedIndex(ExactIndex(ITEMS), ExactIndex(ITEMS), every=10)
    for _ in range(35):
        watched.search(QUERIES[:1], 5)
    assert watched.recall.count == 3


def metric(client, name):
    line = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(line[1]) if line else None


def test_a_running_service_tells_coverage_and_padding(client, recall, known):
    recall("/recall/recgpt", history=known[:4], top_n=30)
    assert 0.05 < metric(client, 'recall_coverage{arm="recgpt"}') <= 1.0
    assert metric(client, 'recall_tokens_total{arm="recgpt",kind="item"}') > 0
    assert metric(client, 'recall_tokens_total{arm="recgpt",kind="padding"}') > 0


def test_one_of_many_answers_is_compared_between_the_arms(client, recall, known):
    bodies = [{"history": known[:3], "top_n": 10}] * 250
    # the comparison begins after the answer has left, and is left out where the other arm does not answer in time
    deadline, share = time.monotonic() + LIMIT_S, None
    while share is None and time.monotonic() < deadline:
        recall("/recall/batch", requests=bodies, arm="recgpt")
        share = metric(client, "recall_overlap")
    assert 0.0 <= share <= 1.0
