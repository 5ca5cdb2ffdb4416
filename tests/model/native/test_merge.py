"""Merging in C: what NumPy's code gives, and the orders of hits that are left to it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import merging
from model.merging import merge
from model.native.loops import LOADED, Loaded
from model.records import PromptPlan, ServingPlan

pytestmark = pytest.mark.skipif(LOADED.loops is None, reason=LOADED.reason)
NONE = np.empty(0, dtype=np.int64)


def hits(rng, num_users, num_queries, width):
    """Different rows a query, few of them, so that queries share some; scores that tie; empty places at the end."""
    shape = (num_users, num_queries, width)
    rows = rng.permuted(np.broadcast_to(np.arange(1, 2 * width + 1), (*shape[:2], 2 * width)), axis=2)[:, :, :width]
    scores = rng.integers(-3, 3, shape).astype(np.float32)
    empty = np.arange(width) >= rng.integers(0, width + 1, (*shape[:2], 1))
    rows, scores = np.where(empty, 0, rows), np.where(empty, -np.inf, scores).astype(np.float32)
    order = np.lexsort((rows, -scores), axis=2)
    return np.take_along_axis(rows, order, 2), np.take_along_axis(scores, order, 2)


@given(
    st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4), st.integers(1, 12), st.integers(1, 60), st.booleans()
)
def test_lists_are_those_of_numpy(seed, num_users, num_queries, width, limit, by_quota):
    rng = np.random.default_rng(seed)
    own = hits(rng, num_users, num_queries, width)
    quotas = tuple(rng.integers(1, 9, num_queries).tolist()) if by_quota else ()
    plan = ServingPlan(PromptPlan(num_steps=len(quotas) or 1), quotas)
    with pytest.MonkeyPatch.context() as patch:
        lists = merge(*own, limit, plan)
        patch.setattr(merging, "LOADED", Loaded(None, "NumPy, by a test"))
        expected = merge(*own, limit, plan)
    for user in range(num_users):
        for ours, theirs in zip(lists.of(user), expected.of(user), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def in_c(rows, scores, limit=4):
    lists = np.empty((1, limit), dtype=np.int64), np.empty((1, limit), dtype=np.float32), np.empty((1, limit), np.int64)
    rows, scores = np.array([rows], dtype=np.int64), np.array([scores], dtype=np.float32)
    return LOADED.loops.merge(rows, scores, NONE, *lists), lists[0].tolist()


@pytest.mark.parametrize(
    ("rows", "scores"),
    [
        ([[1, 2, 3]], [[3, 1, 2]]),
        ([[1, 3, 2]], [[3, 2, 2]]),  # a tie against the order of rows
        ([[1, 0, 3]], [[3, -np.inf, 1]]),
        ([[1, 2, 3]], [[3, np.nan, 1]]),
    ],
)
def test_a_pool_in_another_order_is_left_to_numpy(rows, scores):
    assert in_c(rows, scores)[0] is False


def test_a_pool_is_merged_by_score_then_row():
    assert in_c([[1, 5, 0], [3, 1, 2]], [[3, 2, -np.inf], [4, 2, 2]]) == (True, [[3, 1, 2, 5]])


@pytest.mark.parametrize(("shape", "shares"), [((1, 2, 3), 3), ((2, 2, 3), 2), ((1, 0, 3), 0), ((1, 2, 0), 0)])
def test_sizes_that_do_not_fit_are_refused(shape, shares):
    lists = np.empty((1, 4), dtype=np.int64), np.empty((1, 4), dtype=np.float32), np.empty((1, 4), dtype=np.int64)
    hits = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    with pytest.raises(ValueError, match="differ in U, Q or L"):
        LOADED.loops.merge(*hits, np.ones(shares, dtype=np.int64), *lists)
