"""Preferences of an interleaving: counts by hand, the sign test by fractions, error rates by simulation."""

from fractions import Fraction
from math import comb

import numpy as np
import polars as pl
import pytest

from service.errors import BadStatistics
from service.experiments.verdict.judge import AnalysisPlan
from service.experiments.verdict.preference import (
    TUNED_USERS,
    judge_preferences,
    mean_effect,
    preference_of,
    signed_ranks,
    teams_of,
)


def plan(**changes):
    given = {"weights": {"control": 0.5, "recgpt": 0.5}, "control": "control", "primary": "plays", "guardrails": ()}
    return AnalysisPlan(**given | {"tuned_users": TUNED_USERS} | changes)


def frame(control, treatment, begun=(50, 50), **more):
    users = len(control)
    columns = {"user_id": [str(n) for n in range(users)], "variation": ["interleaved"] * users}
    for team, count in zip(("control", "recgpt"), begun, strict=True):
        columns[f"begun:{team}"] = [count] + [0] * (users - 1)
    return pl.DataFrame(columns | {"plays:control": control, "plays:recgpt": treatment} | more)


MIXED = frame([3, 0, 1, 2, 0, 0], [5, 1, 1, 0, 2, 0])


def test_users_are_counted_by_whom_they_prefer():
    [plays] = judge_preferences(MIXED, plan()).metrics
    assert (plays.prefer_control, plays.prefer_treatment, plays.users) == (1, 3, 6)
    assert (plays.control_credit, plays.treatment_credit) == (6, 9)
    # differences 2, 1, 0, -2, 2, 0: ranks 3, 1, -, 3, 3, -, each twice over 4 + 1
    assert plays.preference.estimate == pytest.approx(2 / 5 * (3 + 1 - 3 + 3) / 6)


def test_sign_test_is_that_of_fair_coins():
    [plays] = judge_preferences(MIXED, plan()).metrics
    assert plays.p_sign == pytest.approx(float(2 * Fraction(comb(4, 3) + comb(4, 4), 2**4)))


def test_a_heavy_user_counts_no_more_than_the_last_in_a_row():
    mild, heavy, heavier = (
        judge_preferences(frame([0, 0, most], [1, 1, 0]), plan()).metrics[0].preference for most in (1, 2, 9999)
    )
    assert heavy == heavier
    assert (mild.estimate, heavy.estimate) == pytest.approx((1 / 3, 2 / 4 * (1.5 + 1.5 - 3) / 3))


def test_ranks_of_all_users_who_differ_have_the_mean_1():
    rng = np.random.default_rng(3)
    values = signed_ranks(np.round(rng.normal(size=500), 1))
    assert np.abs(values[values != 0]).mean() == pytest.approx(1)


def test_seconds_are_judged_by_their_logarithms_where_the_rows_have_them():
    """Two users watch one long video of the control, two as much in four short ones of the treatment."""
    seconds = {"watch_time_s:control": [121.0, 121, 0, 0], "watch_time_s:recgpt": [0.0, 0, 120, 120]}
    logs = {"watch_time_log:control": [4.8, 4.8, 0, 0], "watch_time_log:recgpt": [0.0, 0, 13.7, 13.7]}
    whole = plan(primary="watch_time_s")
    rows = [judge_preferences(frame([1] * 4, [1] * 4, **seconds, **more), whole).metrics for more in ({}, logs)]
    assert [[row.metric for row in metrics] for metrics in rows] == [["watch_time_s", "plays"]] * 2
    without, with_logs = (metrics[0] for metrics in rows)
    assert without.preference.estimate < 0 < with_logs.preference.estimate
    # what is told is in seconds
    assert (with_logs.control_credit, with_logs.treatment_credit) == (242, 240)


def test_users_who_all_agree_are_a_clear_preference():
    [plays] = judge_preferences(frame([0] * 40, [1] * 40), plan(final=True)).metrics
    assert (plays.decision, plays.preference.estimate) == ("users prefer recgpt", 1.0)
    assert plays.p_sign == pytest.approx(2 / 2**40)


def test_where_nobody_prefers_either_nothing_is_said():
    preferences = judge_preferences(frame([1, 1, 0], [1, 1, 0]), plan())
    assert preferences.metrics[0].preference is None
    assert preferences.summary == "plays: not shown: nobody prefers either"


def test_of_hides_less_is_better():
    hidden = frame([0] * 40, [0] * 40, **{"hides:control": [0] * 40, "hides:recgpt": [1] * 40})
    rows = judge_preferences(hidden, plan(lower_is_better=frozenset({"hides"}))).metrics
    assert [(row.metric, row.decision) for row in rows][1] == ("hides", "users prefer control")


def test_other_metrics_are_corrected_together_and_the_primary_alone():
    wins = {
        f"{name}:{team}": [n < 15 + 3 * (team == "recgpt") for n in range(40)]
        for name in ("likes", "shares")
        for team in ("control", "recgpt")
    }
    rows = {row.metric: row for row in judge_preferences(frame([0] * 40, [1] * 40, **wins), plan(final=True)).metrics}
    assert rows["plays"].p_holm == rows["plays"].p_signed_rank
    assert rows["likes"].p_holm == min(1.0, 2 * rows["likes"].p_signed_rank)


def test_a_coin_that_is_not_fair_hides_the_verdict():
    preferences = judge_preferences(frame([0] * 40, [1] * 40, begun=(700, 300)), plan())
    assert (preferences.balance.state, preferences.metrics) == ("red", ())
    assert preferences.summary == "not shown: sample ratio mismatch"


@pytest.mark.parametrize(
    ("rows", "changes", "sentence"),
    [
        (MIXED, {"primary": "likes"}, "'likes' is not among the credits"),
        (
            MIXED,
            {"weights": {"control": 0.5, "other": 0.5}},
            "the teams are control, recgpt, the plan's control, other",
        ),
        (pl.concat([MIXED, MIXED]), {}, "more than one row"),
        (MIXED.drop("plays:recgpt"), {}, "lack the column 'plays:recgpt'"),
        (frame([0, 1], [1, 0], begun=(0, 0)), {}, "no list has items of both teams"),
        (frame([0.0, float("nan")], [1, 0]), {}, "finite numbers"),
    ],
)
def test_credits_that_cannot_be_judged_are_refused(rows, changes, sentence):
    with pytest.raises(BadStatistics, match=sentence):
        judge_preferences(rows, plan(**changes))


def test_rows_of_a_split_have_no_teams():
    assert (teams_of(pl.DataFrame({"user_id": [1], "plays": [1]})), teams_of(MIXED)) == ((), ("control", "recgpt"))


def test_no_preference_is_found_where_there_is_none():
    """400 tests of 600 users at twenty looks: any of the always-valid intervals excludes 0 in at most a twentieth."""
    rng = np.random.default_rng(8)
    differences = rng.choice([-1.0, 0.0, 1.0], p=[0.4, 0.2, 0.4], size=(400, 600)) * rng.geometric(0.3, (400, 600))
    alarms = 0
    for own in differences:
        looks = [mean_effect(signed_ranks(own[:n])) for n in range(30, 601, 30)]
        alarms += any(low > 0 or high < 0 for low, high in (look.always_valid(0.05, TUNED_USERS) for look in looks))
    assert alarms <= 20


def test_preference_of_one_user_in_ten_is_found_in_six_hundred():
    rng = np.random.default_rng(9)
    detected = 0
    for _ in range(200):
        control, treatment = rng.random((2, 600))
        lift = preference_of((control, np.where(rng.random(600) < 0.2, control + 1, treatment)), plan(final=True))
        detected += lift.fixed[0] > 0
    assert detected >= 190
