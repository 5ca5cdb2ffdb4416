"""Comparisons of two systems on the same users, against figures worked out by hand and a paired t-test."""

import numpy as np
import pytest
from scipy import stats

from model.evaluation.comparison import ListPair, compare

TARGETS = [np.array(rows, dtype=np.int32) for rows in ([1, 2], [3], [4, 5, 6, 7])]
OURS = np.array([[1, 2, 9], [8, 3, 9], [4, 0, 0]])
THEIRS = np.array([[1, 8, 9], [8, 9, 3], [9, 5, 8]])


def test_figures_by_hand():
    result = compare([ListPair(OURS, THEIRS)], TARGETS)
    assert result.ours == pytest.approx((1 + 1 + 1 / 4) / 3)
    assert result.theirs == pytest.approx((1 / 2 + 1 + 1 / 4) / 3)
    assert result.gain == pytest.approx(0.5 / 1.75)
    assert result.exclusive == pytest.approx(2 / 4)  # items 2 and 4, of the hits 1, 2, 3, 4
    assert result.overlap == pytest.approx(5 / 7)  # 1 and 9; 8, 3 and 9; not 4


def test_seeds_are_averaged_over_each_user():
    result = compare([ListPair(OURS, THEIRS), ListPair(THEIRS, OURS)], TARGETS)
    assert (result.gain, result.p_value) == (0, 1)


def test_a_system_against_itself():
    result = compare([ListPair(OURS, OURS)], TARGETS)
    assert (result.gain, result.standard_error, result.p_value) == (0, 0, 1)
    assert (result.exclusive, result.overlap) == (0, 1)


@pytest.mark.parametrize(("lift", "is_sure"), [(0.0, False), (0.05, True)])
def test_chance_is_that_of_a_paired_test(lift, is_sure):
    rng = np.random.default_rng(3)
    targets = [np.array([1], dtype=np.int32)] * 4_000
    hard = rng.random(4_000)  # both systems fail on the same users
    ours, theirs = (np.where(hard + 0.3 * rng.random(4_000) < edge, 1, 2)[:, None] for edge in (0.5 + lift, 0.5))
    result = compare([ListPair(ours, theirs)], targets, resamples=1_999)
    paired = stats.ttest_rel(ours[:, 0], theirs[:, 0])
    assert (result.p_value < 0.01) == (paired.pvalue < 0.01) == is_sure
    difference = (ours == 1).astype(float) - (theirs == 1)
    assert result.standard_error == pytest.approx(difference.std(ddof=1) / np.sqrt(4_000), rel=0.1)


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        compare([], TARGETS)
