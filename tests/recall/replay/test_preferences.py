"""The interleaved run of a replay: what the log credits to either arm, and draws of its users against the twins."""

import numpy as np
import polars as pl
import pytest

from recall.replay.lifts import twin_lift
from recall.replay.preferences import agreement, agreements, interleaving_of, read_preferences
from recall.replay.trial import play_logged
from recall.replay.world import Script

METRICS = ("plays", "watch_time_s", "likes")


@pytest.fixture(scope="module")
def mixed(made_up, bundles, tmp_path_factory):
    """The simulator's rows and the credits of the event log."""
    arms, folder = {arm: bundles[arm] for arm in ("comirec", "recgpt")}, tmp_path_factory.mktemp("mixed")
    script = Script(sessions=2, top_n=6, users_a_request=60)
    played = play_logged(arms, made_up, script, folder, interleaving_of("salt", *arms))
    return played, read_preferences(folder / "events")


@pytest.mark.parametrize("metric", METRICS)
def test_every_action_is_credited_to_one_arm(mixed, metric):
    played, credits = mixed
    both = credits[f"{metric}:control"] + credits[f"{metric}:recgpt"]
    assert credits.height == played.height == 120
    # watch time is sent in whole milliseconds
    assert float(both.sum()) == pytest.approx(float(played[metric].sum()), abs=1.0)


def test_lists_are_mixed_and_each_arm_begins_about_half(mixed):
    played, credits = mixed
    begun = [int(credits[f"begun:{name}"].sum()) for name in ("control", "recgpt")]
    assert played["disturbed"].sum() == 0
    assert sum(begun) == 240
    assert min(begun) > 90


def lift_of(metric, control, treatment):
    return twin_lift(metric, np.full(100, control), np.full(100, treatment))


def credits_of(control, treatment):
    return pl.DataFrame({"plays:control": np.array(control, float), "plays:recgpt": np.array(treatment, float)})


def test_draws_of_users_who_prefer_the_better_arm_agree():
    wins = np.arange(2000) % 10 < 6
    row = agreement(credits_of(~wins, wins), lift_of("plays", 1.0, 1.1), "recgpt", 50, 0)
    assert (row.prefer_control, row.prefer_treatment, row.draws) == (800, 1200, 50)
    assert (row.agrees, row.clear_and_wrong) == (1, 0)
    assert row.clear > 0.9


def test_draws_against_the_lift_are_counted_as_wrong():
    wins = np.arange(2000) % 10 < 6
    row = agreement(credits_of(wins, ~wins), lift_of("plays", 1.0, 1.1), "recgpt", 50, 0)
    assert (row.agrees, row.clear) == (0, 0)
    assert row.clear_and_wrong > 0.9


def test_a_draw_that_nobody_prefers_either_in_agrees_with_nothing():
    row = agreement(credits_of(np.ones(600), np.ones(600)), lift_of("plays", 1.0, 1.1), "recgpt", 10, 0)
    assert (row.agrees, row.clear, row.clear_and_wrong) == (0, 0, 0)


def test_metrics_that_a_log_does_not_have_and_those_without_a_lift_are_left_out():
    lifts = [lift_of("plays", 1.0, 1.1), lift_of("view_time_s", 1.0, 1.1)]
    rows = agreements(credits_of(np.ones(600), np.arange(600)), lifts, "recgpt", 10, 0)
    assert [row.metric for row in rows] == ["plays"]
    assert agreement(credits_of(np.ones(9), np.ones(9)), lift_of("plays", 1.0, 1.0), "recgpt", 10, 0) is None
