"""From hits to one list: quotas, the pool, diversity; never an item twice; a batch as one by one."""

from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import merging
from model.catalogue import Ragged
from model.merging import merge, split_limit
from model.records import PromptPlan, ServingPlan

pytestmark = pytest.mark.usefixtures("code")  # NumPy's and C's


class Columns(NamedTuple):
    rows: list[int]
    scores: list[float]
    sources: list[int]


def merge_lists(lists, limit, quotas=(), scores=None, diversity=0.0, categories=None):
    """Hits (Q, K); without scores each list falls from 1 by .01 a place."""
    rows = np.array(lists, dtype=np.int64)
    if scores is None:
        scores = np.tile(1 - 0.01 * np.arange(rows.shape[1]), (len(rows), 1))
    plan = ServingPlan(PromptPlan(num_steps=len(quotas) or 1), quotas, diversity)
    merged = merge(rows[None], np.array(scores, dtype=np.float32)[None], limit, plan, categories).of(0)
    return Columns(*(column.tolist() for column in merged))


@pytest.mark.parametrize(
    ("limit", "quotas", "shares"),
    [
        (10, (7, 3), [7, 3]),
        (5, (1, 1), [3, 2]),  # a tie goes to the earlier step
        (10, (1, 2), [3, 7]),
        (4, (1, 1, 1), [2, 1, 1]),
        (3, (8, 1, 1), [3, 0, 0]),  # parts 2.4, .3, .3: the largest remainder takes the last place
        (1, (1, 9), [0, 1]),
        (0, (1, 1), [0, 0]),
        (7, (1, 0), [7, 0]),
    ],
)
def test_largest_remainder(limit, quotas, shares):
    assert split_limit(limit, quotas) == shares


@given(st.integers(0, 200), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_shares_are_whole_near_and_add_up(limit, quotas):
    shares = split_limit(limit, quotas)
    assert sum(shares) == limit
    assert all(abs(share - limit * quota / sum(quotas)) < 1 for share, quota in zip(shares, quotas, strict=True))


def test_quotas_give_m_then_n():
    merged = merge_lists([[1, 2, 3, 4], [5, 6, 7, 8]], 4, quotas=(3, 1))
    assert merged.rows == [1, 2, 3, 5]
    assert merged.sources == [0, 0, 0, 1]


def test_the_n_are_not_among_the_m():
    assert merge_lists([[1, 2, 3, 4], [2, 1, 3, 5]], 4, quotas=(1, 1)).rows == [1, 2, 3, 5]


def test_quotas_do_not_compare_scores():
    assert merge_lists([[1, 2], [3, 4]], 2, quotas=(1, 1), scores=[[0.1, 0.0], [9.0, 8.0]]).rows == [1, 3]


def test_scores_stay_with_their_items():
    merged = merge_lists([[1, 2], [3, 4]], 3, quotas=(2, 1), scores=[[4, 3], [2, 1]])
    assert merged.scores == [4, 3, 2]


@pytest.mark.parametrize("lists", [[[1, 0, 0], [4, 5, 6]], [[4, 5, 6], [1, 0, 0]]])
def test_a_short_step_is_filled_from_the_other(lists):
    assert sorted(merge_lists(lists, 4, quotas=(1, 1)).rows) == [1, 4, 5, 6]


def test_filling_from_two_steps_repeats_nothing():
    merged = merge_lists([[1, 2, 3, 4], [2, 3, 4, 5], [9, 0, 0, 0]], 6, quotas=(1, 1, 4))
    assert merged.rows == [1, 2, 9, 3, 4, 5]


def test_the_pool_is_by_score():
    merged = merge_lists([[1, 2], [3, 4]], 3, scores=[[0.9, 0.2], [0.8, 0.7]])
    assert merged.rows == [1, 3, 4]
    assert merged.sources == [0, 1, 1]


def test_an_item_in_two_interests_keeps_its_best_score():
    merged = merge_lists([[1, 2], [2, 3]], 3, scores=[[0.9, 0.2], [0.8, 0.7]])
    assert merged.rows == [1, 2, 3]
    assert merged.sources == [0, 1, 1]


def test_equal_scores_are_ordered_by_row():
    assert merge_lists([[8, 3], [5, 1]], 4, scores=[[1, 1], [1, 1]]).rows == [1, 3, 5, 8]


def brute_force_diversity(pool, limit, penalty, categories):
    """ComiRec, algorithm 1: each next item has the highest score - penalty * shared categories; pool is best first."""
    chosen = []
    while len(chosen) < min(limit, len(pool)):

        def value(entry):
            row, score = entry
            own = categories[row - 1].tolist()
            return score - penalty * sum(c in own for other, _ in chosen for c in categories[other - 1].tolist())

        chosen.append(max((entry for entry in pool if entry not in chosen), key=value))
    return [row for row, _ in chosen]


@given(st.data())
def test_diversity_equals_brute_force(data):
    num_items = data.draw(st.integers(1, 9))
    scores = data.draw(st.lists(st.integers(0, 20).map(lambda n: n / 4), min_size=num_items, max_size=num_items))
    categories = Ragged.of(data.draw(st.lists(st.sets(st.integers(0, 3)).map(sorted), min_size=9, max_size=9)))
    penalty, limit = data.draw(st.sampled_from([0.25, 0.5, 1.0, 8.0])), data.draw(st.integers(0, 9))
    pool = sorted(enumerate(scores, start=1), key=lambda entry: (-entry[1], entry[0]))
    rows, values = [row for row, _ in pool], [score for _, score in pool]
    merged = merge_lists([rows], limit, scores=[values], diversity=penalty, categories=categories)
    assert merged.rows == brute_force_diversity(pool, limit, penalty, categories)


def test_diversity_spreads_categories():
    categories = Ragged.of([[0], [0], [0], [1]])
    scores = [[1.0, 0.9, 0.8, 0.5]]
    plain = merge_lists([[1, 2, 3, 4]], 3, scores=scores, categories=categories)
    spread = merge_lists([[1, 2, 3, 4]], 3, scores=scores, diversity=0.5, categories=categories)
    assert (plain.rows, spread.rows) == ([1, 2, 3], [1, 4, 2])


def test_diversity_changes_the_order_but_not_the_scores():
    merged = merge_lists([[1, 2, 3]], 3, scores=[[3, 2, 1]], diversity=5.0, categories=Ragged.of([[0], [0], [1]]))
    assert dict(zip(merged.rows, merged.scores, strict=True)) == {1: 3, 2: 2, 3: 1}


def test_diversity_without_categories_keeps_the_pool():
    assert merge_lists([[3, 1, 2]], 2, diversity=0.5).rows == [3, 1]


NUM_ITEMS, NUM_PLACES = 8, 5
STEP = st.builds(
    lambda row, length: [*row[:length], *[0] * (NUM_PLACES - length)],
    st.permutations(range(1, NUM_ITEMS + 1)),
    st.integers(0, NUM_PLACES),
)
HITS = st.lists(STEP, min_size=1, max_size=4)


@given(HITS, st.integers(0, NUM_ITEMS + 2), st.booleans(), st.data())
def test_as_long_as_it_can_be_and_nothing_twice(hits, limit, by_quota, data):
    quotas = tuple(data.draw(st.integers(1, 9)) for _ in hits) if by_quota else ()
    merged = merge_lists(hits, limit, quotas)
    usable = {row for step in hits for row in step} - {0}
    assert len(merged.rows) == len(set(merged.rows)) == min(limit, len(usable))
    assert set(merged.rows) <= usable


def one_by_one(rows, scores, limit, quotas):
    """The same in the words of the paper: a dict keeps the order of first sight."""
    steps = [
        [(row, score, step) for row, score in zip(*both, strict=True) if row]
        for step, both in enumerate(zip(rows.tolist(), scores.tolist(), strict=True))
    ]
    pool = [entry for step in steps for entry in step]
    chosen = {}
    for entries, share in zip(steps, split_limit(limit, quotas) if quotas else [], strict=False):
        stop = len(chosen) + share
        for entry in entries:
            if len(chosen) < stop:
                chosen.setdefault(entry[0], entry)
    for entry in pool if quotas else sorted(pool, key=lambda entry: (-entry[1], entry[0])):
        chosen.setdefault(entry[0], entry)
    return list(chosen.values())[:limit]


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 4), st.integers(1, 40), st.booleans(), st.booleans())
def test_a_batch_is_merged_as_one_by_one(seed, num_users, num_queries, limit, by_quota, by_sorting):
    rng, width = np.random.default_rng(seed), 25
    # many items in common, some lists short, scores that tie
    rows = np.stack([[rng.permutation(60)[:width] + 1 for _ in range(num_queries)] for _ in range(num_users)])
    for lists in rows.reshape(-1, width)[::3]:
        lists[rng.integers(width + 1) :] = 0
    scores = -np.sort(-rng.integers(0, 30, rows.shape), axis=2).astype(np.float32)
    quotas = tuple(rng.integers(1, 9, num_queries).tolist()) if by_quota else ()
    plan = ServingPlan(PromptPlan(num_steps=num_queries), quotas)
    with mock.patch.object(merging, "MAX_COMPARED", 0 if by_sorting else 1 << 22):
        lists = merge(rows, scores, limit, plan)
    for user in range(num_users):
        assert list(zip(*(c.tolist() for c in lists.of(user)), strict=True)) == one_by_one(
            rows[user], scores[user], limit, quotas
        )


@given(HITS, st.integers(1, 14))
def test_every_item_comes_from_the_vector_named(hits, limit):
    merged = merge_lists(hits, limit, quotas=(1,) * len(hits))
    assert all(row in hits[source] for row, source in zip(merged.rows, merged.sources, strict=True))


def test_no_hits_give_an_empty_list():
    assert merge_lists([[0, 0]], 5) == ([], [], [])
