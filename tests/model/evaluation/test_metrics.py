"""Metrics against fractions worked out by hand."""

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.evaluation.metrics import NAMES, Relevance, ranking_metrics


def measure(lists, targets, *cutoffs):
    relevance = Relevance.of(np.array(lists, dtype=np.int64), [np.array(t, dtype=np.int32) for t in targets])
    return ranking_metrics(relevance, cutoffs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recall@1", 0.0),
        ("recall@2", (1 / 3 + 0) / 2),
        ("recall@4", (2 / 3 + 1) / 2),
        ("hr@2", 1 / 2),
        ("hr@3", 2 / 2),
        ("precision@2", (1 / 2 + 0) / 2),
        ("precision@4", (2 / 4 + 1 / 4) / 2),
        ("ndcg@2", (1 / log2(3) / (1 + 1 / log2(3)) + 0) / 2),
        ("ndcg@4", ((1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / 2) + 1 / 2) / 2),
    ],
)
def test_two_users_by_hand(name, expected):
    table = measure([[9, 1, 8, 2], [5, 6, 7, 4]], [[1, 2, 3], [7]], 1, 2, 3, 4)
    assert table[name] == pytest.approx(expected)


def test_one_target_at_each_rank():
    gains = [measure([[1, 2, 3]], [[target]], 3)["ndcg@3"] for target in (1, 2, 3, 4)]
    assert gains == pytest.approx([1, 1 / log2(3), 1 / 2, 0])


def test_a_perfect_list_scores_one_even_when_targets_outnumber_places():
    table = measure([[3, 1]], [[1, 2, 3, 4]], 2)
    assert table == pytest.approx({"recall@2": 2 / 4, "hr@2": 1, "precision@2": 1, "ndcg@2": 1})


def test_repeated_targets_count_once():
    assert measure([[1, 2, 3]], [[2, 2, 2, 5]], 3) == measure([[1, 2, 3]], [[2, 5]], 3)


def test_a_short_list_is_padded_with_misses():
    short = measure([[1, 2]], [[2, 7]], 5)
    assert short == measure([[1, 2, 0, 0, 0]], [[2, 7]], 5)
    assert short["precision@5"] == 1 / 5


def test_an_empty_place_is_never_a_hit():
    assert measure([[0, 0]], [[0]], 2)["hr@2"] == 0


def test_every_name_at_every_cutoff():
    assert list(measure([[1]], [[1]], 10, 5)) == [f"{name}@{k}" for k in (10, 5) for name in NAMES]


def test_lists_and_targets_must_pair_up():
    with pytest.raises(ValueError, match="zip"):
        measure([[1], [2]], [[1]], 1)


USERS = st.lists(
    st.tuples(st.permutations(range(1, 13)), st.lists(st.integers(1, 15), min_size=1, max_size=9)),
    min_size=1,
    max_size=5,
)


@given(USERS, st.integers(1, 15))
def test_metrics_stay_between_zero_and_one(users, k):
    table = measure([row for row, _ in users], [targets for _, targets in users], k)
    assert all(0 <= value <= 1 + 1e-12 for value in table.values())


@given(USERS)
def test_recall_and_hit_rate_never_fall_with_the_cutoff(users):
    table = measure([row for row, _ in users], [targets for _, targets in users], *range(1, 15))
    for name in ("recall", "hr"):
        values = [table[f"{name}@{k}"] for k in range(1, 15)]
        assert values == sorted(values)


@given(USERS)
def test_a_hit_moved_up_never_lowers_ndcg(users):
    row, targets = users[0]
    hits_first = sorted(row, key=lambda item: item not in targets)
    assert measure([hits_first], [targets], 6)["ndcg@6"] >= measure([row], [targets], 6)["ndcg@6"] - 1e-12
