"""Other salts: the assigner's divisions, and what the intervals do on users whose truth is planted."""

import numpy as np
import pytest

from recall.replay.lifts import twin_lift
from recall.replay.salts import Outcomes, divisions, ever_alarmed, tally, treated, try_salts
from service.experiments.verdict.statistics import Moments

USERS = np.arange(600)


@pytest.fixture(scope="module")
def twins():
    """Users of very different appetite; the treatment adds a tenth, drawn apart."""
    rng = np.random.default_rng(8)
    appetite = rng.gamma(3, 2, len(USERS))
    control, more = rng.poisson(appetite), rng.poisson(0.1 * appetite)
    return control.astype(float), (control + more).astype(float), appetite


def test_half_of_the_units_are_treated_and_another_salt_divides_anew():
    units = [str(user) for user in range(4_000)]
    first, second = treated("a", units), treated("b", units)
    assert abs(first.mean() - 0.5) < 0.03
    assert abs((first == second).mean() - 0.5) < 0.03
    assert (treated("a", units) == first).all()


def test_weights_give_the_moments_of_the_users(twins):
    control, treatment, covariate = twins
    same, anew = next(divisions(USERS, 3, seed=0))
    is_treated = same.treatment[1] > 0
    of_weights = same.moments(control, treatment, covariate)[1]
    of_users = Moments.of_users(treatment[is_treated], x=covariate[is_treated])
    for name in ("n", "sum_y", "sum_yy", "sum_x", "sum_xx", "sum_yx", "sum_dx", "sum_dd"):
        assert getattr(of_weights, name)[1] == pytest.approx(getattr(of_users, name)), name
    # drawn anew: as many visitors, some users several times
    assert (anew.control + anew.treatment).sum(1).tolist() == [600] * 3
    assert (anew.control + anew.treatment).max() > 1


def test_intervals_hold_the_truth_and_same_users_make_them_wider(twins):
    control, treatment, covariate = twins
    plays = Outcomes(control=control, treatment=treatment, covariate=covariate)
    counts = try_salts({"plays": plays}, USERS, 200, seed=1)["plays"]
    rates = counts.rates()
    assert rates["salts"] == 200
    assert 0.9 <= rates["covered_anew"] <= 0.99
    assert rates["covered_same"] >= 0.9
    assert rates["false_alarms"] <= 0.1
    assert rates["ever_alarms"] <= 0.05


def test_a_wrong_truth_is_not_covered(twins):
    control, treatment, covariate = twins

    class Wrong(Outcomes):
        truth = 1.5

    same, anew = next(divisions(USERS, 5, seed=0))
    counts = tally(Wrong(control=control, treatment=treatment, covariate=covariate), same, anew)
    assert (counts.salts, counts.covered_anew, counts.covered_same) == (5, 0, 0)


def test_an_effect_is_seen_at_some_look(twins):
    control, _, _ = twins
    same, _ = next(divisions(USERS, 4, seed=0))
    assert not ever_alarmed(same, (control, control, None)).any()
    assert ever_alarmed(same, (control, 3 * control, None)).all()


def test_twins_are_pairs(twins):
    control, treatment, _ = twins
    lift = twin_lift("plays", control, treatment)
    assert lift.lift == pytest.approx(treatment.sum() / control.sum() - 1)
    low, high = lift.fixed
    # drawn by themselves, users make an interval several times as wide
    assert 0.05 < low < lift.lift < high < 0.15
    assert lift.always_valid[0] < low < high < lift.always_valid[1]
    assert twin_lift("likes", np.zeros(5), np.ones(5)) is None


def test_twins_that_are_alike_have_no_interval():
    values = np.arange(1.0, 9.0)
    lift = twin_lift("plays", values, values)
    assert (lift.lift, lift.fixed, lift.correlation) == (0, (0, 0), pytest.approx(1))
