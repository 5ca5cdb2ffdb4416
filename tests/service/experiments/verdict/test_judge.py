"""The verdict: sample ratio first, decisions in words, Holm, winsorising, guard rails, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadStatistics
from service.experiments.verdict.guardrails import Guardrail, RailState
from service.experiments.verdict.judge import NOT_SHOWN, AnalysisPlan, holm, judge
from service.experiments.verdict.sample_ratio import RatioState
from service.experiments.verdict.statistics import Kind, MetricStatistics, Moments

PLAN = AnalysisPlan(weights={"control": 0.5, "recgpt": 0.5}, control="control", primary="plays")
RNG = np.random.default_rng(5)


def row(variation, values, metric="plays", **options):
    return MetricStatistics(variation=variation, metric=metric, moments=Moments.of_users(values), **options)


def pair(treated, metric="plays", control=None, **options):
    """Both arms of one metric; without values of its own the control has those of a normal around 10."""
    control = normal(10) if control is None else control
    return [row("control", control, metric, **options), row("recgpt", treated, metric, **options)]


def normal(mean, users=5_000):
    """The same shape each time, so that only the mean differs."""
    shape = np.random.default_rng(2).normal(0, 2, users)
    return mean + shape - shape.mean()


def only(verdict, metric):
    (row,) = (row for row in verdict.metrics if row.metric == metric)
    return row


def rates(failed, users=5_000, each=20):
    """Failed requests of users with 20 requests, as a ratio."""
    return Moments.of_users(RNG.binomial(each, failed, users).astype(float), np.full(users, float(each)))


def rail_rows(control, treatment, metric="error_rate"):
    return [
        MetricStatistics(variation=name, metric=metric, kind=Kind.RATIO, moments=moments)
        for name, moments in (("control", control), ("recgpt", treatment))
    ]


# --- decisions


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize(
    ("mean", "lower", "words"),
    [
        (10.5, (), "recgpt better than control"),
        (9.5, (), "recgpt worse than control"),
        (10.5, ("plays",), "recgpt worse than control"),
        (9.5, ("plays",), "recgpt better than control"),
    ],
)
def test_decision_in_words(mean, lower, words, final):
    plan = replace(PLAN, lower_is_better=frozenset(lower), final=final)
    verdict = judge(pair(normal(mean)), plan)
    assert only(verdict, "plays").decision == words
    assert verdict.summary == f"plays: {words}"


def test_no_difference_says_what_is_excluded():
    verdict = judge(pair(normal(10)), replace(PLAN, final=True))
    widest = 100 * only(verdict, "plays").relative.fixed[1]
    assert only(verdict, "plays").decision == f"no clear difference; one larger than {widest:.3g} % is excluded"


def test_a_lift_between_both_intervals_is_found_by_the_planned_look_alone():
    rows = pair(normal(10.1))
    lift = only(judge(rows, PLAN), "plays").absolute
    assert lift.always_valid[0] < 0 < lift.fixed[0]
    assert only(judge(rows, PLAN), "plays").decision.startswith("no clear difference")
    assert only(judge(rows, replace(PLAN, final=True)), "plays").decision == "recgpt better than control"


def test_a_control_below_0_has_no_relative_lift():
    verdict = judge(pair(normal(1), control=normal(-1)), PLAN)
    assert only(verdict, "plays").relative is None
    assert only(verdict, "plays").absolute.estimate == pytest.approx(2)
    assert "better" in only(verdict, "plays").decision


def test_a_metric_that_does_not_vary_has_no_verdict():
    verdict = judge(pair(np.ones(50), control=np.ones(50)), PLAN)
    assert only(verdict, "plays").absolute is None
    assert verdict.summary == "plays: not shown: the metric does not vary"


def test_the_primary_comes_first_and_is_not_corrected():
    rows = [*pair(normal(10.1), "likes"), *pair(normal(10.1), "shares"), *pair(normal(10.1))]
    verdict = judge(rows, replace(PLAN, final=True))
    assert [row.metric for row in verdict.metrics] == ["plays", "likes", "shares"]
    assert [row.p_holm / row.absolute.p for row in verdict.metrics] == pytest.approx([1, 2, 2])


def test_every_treatment_is_compared_with_the_control():
    plan = replace(PLAN, weights={"control": 0.5, "recgpt": 0.25, "sasrec": 0.25})
    rows = [row("control", normal(10)), row("recgpt", normal(10.5, 2_500)), row("sasrec", normal(9, 2_500))]
    verdict = judge(rows, plan)
    assert [row.treatment for row in verdict.metrics] == ["recgpt", "sasrec"]
    assert verdict.metrics[1].decision == "sasrec worse than control"
    assert verdict.metrics[0].p_holm >= verdict.metrics[0].absolute.p_always_valid


def test_winsorised_stands_beside_raw_and_does_not_decide():
    rows = [*pair(normal(10)), *pair(normal(12), cap=15.0)]
    verdict = judge(rows, PLAN)
    assert only(verdict, "plays").winsorised.cap == 15
    assert only(verdict, "plays").winsorised.relative.estimate == pytest.approx(0.2)
    assert only(verdict, "plays").decision.startswith("no clear difference")


def test_a_verdict_is_json():
    verdict = judge([*pair(normal(10.5)), *rail_rows(rates(0), rates(0))], PLAN)
    read = json.loads(json.dumps(verdict.as_json(), allow_nan=False))
    assert read["metrics"][0]["decision"] == "recgpt better than control"
    assert read["sample_ratio"]["state"] == "green"


# --- Holm


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_p_and_bonferroni(values):
    for p, adjusted in zip(values, holm(values), strict=True):
        assert p <= adjusted <= min(1, len(values) * p)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_holm_keeps_the_order(values):
    adjusted = dict(zip(values, holm(values), strict=True))
    assert [adjusted[p] for p in sorted(adjusted)] == sorted(adjusted.values())


# --- sample ratio


def test_no_verdict_while_the_ratio_is_red():
    rows = [row("control", normal(10)), row("recgpt", normal(20, 4_000))]
    verdict = judge(rows, PLAN)
    assert (verdict.sample_ratio.state, verdict.metrics, verdict.summary) == (RatioState.RED, (), NOT_SHOWN)


def test_guard_rails_are_shown_while_the_ratio_is_red():
    rows = [row("control", normal(10)), row("recgpt", normal(20, 4_000))]
    rows += rail_rows(rates(0), rates(0.5, 4_000))
    assert judge(rows, PLAN).pause == ("recgpt",)


def test_weights_are_those_of_the_plan():
    plan = replace(PLAN, weights={"control": 0.9, "recgpt": 0.1})
    rows = [row("control", normal(10, 9_000)), row("recgpt", normal(10, 1_000))]
    assert judge(rows, plan).sample_ratio.state is RatioState.GREEN
    assert judge(rows, PLAN).sample_ratio.state is RatioState.RED


def test_the_summary_names_each_of_several_treatments():
    weights = {"control": 0.4, "recgpt": 0.3, "sasrec": 0.3}
    rows = [row(name, normal(mean, n)) for name, mean, n in (("control", 10, 4_000), ("recgpt", 11, 3_000))]
    summary = judge([*rows, row("sasrec", normal(10, 3_000))], replace(PLAN, weights=weights)).summary
    assert summary.startswith("plays, recgpt: recgpt better than control; plays, sasrec: no clear difference")


# --- guard rails


def rail_of(rows, **options):
    verdict = judge([*pair(normal(10)), *rows], replace(PLAN, **options))
    return verdict.guardrails[0], verdict.pause


@pytest.mark.parametrize(
    ("failed", "state", "pause"),
    [
        (0.01, RailState.WITHIN, ()),
        (0.013, RailState.UNCLEAR, ()),
        (0.05, RailState.BREACHED, ("recgpt",)),
    ],
)
def test_guard_rail_on_errors(failed, state, pause):
    rail = Guardrail(metric="error_rate", tolerance=0.003)
    verdict, paused = rail_of(rail_rows(rates(0.01), rates(failed)), guardrails=(rail,))
    assert (verdict.state, paused) == (state, pause)


def test_an_arm_that_always_fails_is_paused():
    verdict, paused = rail_of(rail_rows(rates(0), rates(1)))
    assert (verdict.state, verdict.rise, paused) == (RailState.BREACHED, 1.0, ("recgpt",))


def test_no_errors_at_all_are_within_tolerance():
    assert rail_of(rail_rows(rates(0), rates(0)))[0].state is RailState.WITHIN


@pytest.mark.parametrize(
    ("users", "each", "state"),
    [(1_800, 20, RailState.UNCLEAR), (1_900, 20, RailState.WITHIN), (1_900, 0.9, RailState.UNCLEAR)],
)
def test_no_failure_excludes_a_rate_only_after_enough_users(users, each, state):
    # (1 - .002)^n falls below .025 at 1,843 users, or requests where there are fewer of them
    clean = Moments.of_users(np.zeros(users), np.full(users, float(each)))
    plays = pair(normal(10, users), control=normal(10, users))
    [rail] = judge([*plays, *rail_rows(clean, clean)], PLAN).guardrails
    assert (rail.state, rail.pause) == (state, False)
    assert rail.always_valid[1] == -rail.always_valid[0] == pytest.approx(3.69 / (users * min(1, each)), rel=0.01)


@pytest.mark.parametrize("failures", [(0, 1), (1, 0), (1, 1)])
def test_a_failure_or_two_are_no_more_reassuring_than_none(failures):
    def arm(number):
        return Moments.of_users(np.arange(300) < number, np.full(300, 20.0))

    plays = pair(normal(10, 300), control=normal(10, 300))
    [clean] = judge([*plays, *rail_rows(arm(0), arm(0))], PLAN).guardrails
    [rail] = judge([*plays, *rail_rows(*map(arm, failures))], PLAN).guardrails
    assert rail.state == clean.state == RailState.UNCLEAR
    assert rail.always_valid[1] >= clean.always_valid[1]


def test_latency_is_judged_relative_to_the_control():
    rail, paused = rail_of(pair(normal(12), "latency_ms"))
    assert (rail.rise, rail.relative, paused) == (pytest.approx(0.2), True, ("recgpt",))


def test_some_users_are_needed():
    rows = [*pair(normal(10, 99), control=normal(10, 99)), *rail_rows(rates(0, 99), rates(1, 99))]
    assert judge(rows, PLAN).guardrails[0].state is RailState.UNCLEAR


def test_guard_rails_are_no_metrics():
    verdict = judge([*pair(normal(10)), *rail_rows(rates(0), rates(1))], PLAN)
    assert [row.metric for row in verdict.metrics] == ["plays"]


# --- refusals

MISTAKES = {
    "one arm": ([row("control", normal(10))], "one arm alone"),
    "row twice": ([*pair(normal(10)), row("control", normal(10))], "two rows"),
    "arm without weight": ([*pair(normal(10)), row("sasrec", normal(10))], "has no weight"),
    "no primary": (pair(normal(10), "likes"), "primary metric 'plays' is not"),
    "users left out": ([*pair(normal(10)), *pair(normal(10, 9), "likes")], "every exposed user counts"),
    "two kinds": (
        [row("control", normal(10)), row("recgpt", np.arange(5_000) % 2 * 1.0, kind=Kind.PROPORTION)],
        "different kinds",
    ),
    "NaN": (pair(np.full(5_000, np.nan)), "not a finite number"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_tables_are_refused(name):
    rows, reason = MISTAKES[name]
    with pytest.raises(BadStatistics, match=reason):
        judge(rows, PLAN)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"alpha": 0}, "alpha is 0"),
        ({"control": "comirec"}, "control 'comirec' is none"),
        ({"primary": "error_rate"}, "cannot be the primary"),
    ],
)
def test_bad_plans_are_refused(change, reason):
    with pytest.raises(BadStatistics, match=reason):
        replace(PLAN, **change)


def test_a_bad_tolerance_is_refused():
    with pytest.raises(BadStatistics, match="tolerance of 'error_rate'"):
        Guardrail(metric="error_rate", tolerance=float("nan"))
