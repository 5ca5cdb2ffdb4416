"""Sums of an experiment, and the estimates from them: golden values, an outside witness, properties, refusals."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from service.errors import BadStatistics
from service.experiments.verdict.estimates import compare, cuped_coefficient, estimate_arm, variance_reduction
from service.experiments.verdict.power import (
    Baseline,
    ErrorRates,
    days,
    detectable_lift,
    users_per_arm,
    users_per_arm_any_time,
)
from service.experiments.verdict.sample_ratio import RatioState, chi_square_p, judge_ratio, sequential_p
from service.experiments.verdict.statistics import (
    MOMENTS,
    Kind,
    MetricColumns,
    MetricStatistics,
    Moments,
    check,
    combine,
    from_frame,
    from_users,
    to_frame,
)

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
KINDS = {"mean": Kind.MEAN, "prop": Kind.PROPORTION, "ratio": Kind.RATIO, "cuped": Kind.MEAN}


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parents[5] / "shared" / "conformance" / "stats_golden.json"
    if not path.is_file():
        pytest.skip(f"needs the outside golden values in {path}; they are not part of the project")
    return json.loads(path.read_text())


def golden_moments(kind, arm):
    n = arm["n"]
    if kind == "ratio":
        (y, yy), (d, dd) = arm["m"], arm["d"]
        return Moments(n=n, sum_y=y, sum_yy=yy, sum_d=d, sum_dd=dd, sum_yd=arm["md"])
    y, yy = arm["post"] if kind == "cuped" else (arm["sum"], arm.get("sum_squares", arm["sum"]))
    x, xx = arm.get("pre", (0.0, 0.0))
    return mean_moments(n, y, yy, sum_x=x, sum_xx=xx, sum_yx=arm.get("pp", 0.0), sum_dx=x)


def mean_moments(n, y, yy, **covariate):
    return Moments(n=n, sum_y=y, sum_yy=yy, sum_d=n, sum_dd=n, sum_yd=y, **covariate)


CONTROL, TREATMENT = mean_moments(3407, 1396.87, 52377.9767), mean_moments(3461, 2422.7, 134698.29)

# --- golden values


def test_the_example_of_welch():
    absolute, relative = compare(CONTROL, TREATMENT, Kind.MEAN)
    assert_allclose([absolute.estimate, *absolute.interval(0.05)], [0.29, 0.0453779, 0.5346221], atol=5e-8)
    assert_allclose([relative.estimate, *relative.interval(0.05)], [0.7073171, -0.0352601, 1.4498942], atol=5e-8)
    assert_allclose([absolute.p_value(), relative.p_value()], [0.0201584, 0.0619118], atol=5e-8)
    assert_allclose(absolute.always_valid(0.05, 5_000), [-0.0894101, 0.6694101], atol=5e-8)


def test_outside_golden_intervals(golden):
    for case in golden["tests"]:
        if (case["kind"], case["difference"]) == ("cuped", "relative"):
            continue  # its gradient is shortened: below
        arms = [golden_moments(case["kind"], case[arm]) for arm in "ab"]
        effect = dict(zip(("absolute", "relative"), compare(*arms, KINDS[case["kind"]]), strict=True))
        effect = effect[case["difference"]]
        if case["engine"] == "welch":
            interval, p = effect.interval(0.05), effect.p_value()
        else:
            tuned = int(case["engine"].removeprefix("sequential"))
            interval, p = effect.always_valid(0.05, tuned), effect.always_valid_p(0.05, tuned)
        assert_allclose([effect.estimate, *interval, p], [case["expected"], *case["ci"], case["p"]], **TOLERANCE)


def test_relative_cuped_has_the_estimate_of_the_outside_and_another_interval(golden):
    """The outside leaves the covariate out of the derivative by the control's value."""
    (case,) = [case for case in golden["tests"] if (case["kind"], case["difference"]) == ("cuped", "relative")]
    c, t = (golden_moments("cuped", case[arm]) for arm in "ab")
    _, relative = compare(c, t, Kind.MEAN)
    assert_allclose(relative.estimate, case["expected"], **TOLERANCE)
    assert abs(relative.always_valid(0.05)[0] - case["ci"][0]) == pytest.approx(0.000324315, abs=1e-9)
    assert_allclose(relative.error, numeric_error(c, t), rtol=1e-6)


def numeric_error(c, t):
    """The delta method of the relative CUPED lift with derivatives by central differences."""
    theta = float(cuped_coefficient(c, t, Kind.MEAN))
    arms = [estimate_arm(m, Kind.MEAN) for m in (c, t)]

    def lift(means):
        control, control_x, treatment, treatment_x = means
        return (treatment - control - theta * (treatment_x - control_x)) / control

    means = np.array([value for arm in arms for value in (arm.value, arm.covariate)])
    slopes = [(lift(means + step) - lift(means - step)) / 2e-6 for step in np.eye(4) * 1e-6]
    covariance = np.zeros((4, 4))
    for place, arm in zip((0, 2), arms, strict=True):
        block = [[arm.var_value, arm.covariance], [arm.covariance, arm.var_covariate]]
        covariance[place : place + 2, place : place + 2] = block
    return math.sqrt(slopes @ covariance @ slopes)


def test_outside_golden_sample_ratios(golden):
    for case in golden["srm"]:
        p = chi_square_p(np.array(case["observed"], float), np.array(case["weights"]))
        assert p == pytest.approx(case["p"], abs=1e-12)


# --- the witness


@pytest.fixture(scope="module")
def users():
    rng = np.random.default_rng(3)
    n, appetite = 3_000, rng.gamma(2, 1, 3_000)
    plays = rng.poisson(5 * appetite) + 1
    return pl.DataFrame(
        {
            "user_id": np.arange(n),
            "variation": np.where(rng.random(n) < 0.4, "control", "recgpt"),
            "plays": plays,
            "plays_before": rng.poisson(4 * appetite),
            "watch": plays * rng.exponential(9, n),
        }
    )


COLUMNS = (
    MetricColumns(metric="mean", value="plays"),
    MetricColumns(metric="cuped", value="plays", covariate="plays_before"),
    MetricColumns(metric="ratio", value="watch", denominator="plays", kind=Kind.RATIO),
)


def raw(rows, metric):
    return {row.variation: row.moments for row in rows if row.metric == metric and row.cap is None}


@pytest.mark.parametrize("columns", COLUMNS, ids=lambda columns: columns.metric)
def test_tea_tasting_agrees(users, columns):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports
        tea = pytest.importorskip("tea_tasting", reason="the witness is not installed")
        metrics = {
            "mean": tea.Mean("plays"),
            "cuped": tea.Mean("plays", "plays_before"),
            "ratio": tea.RatioOfMeans("watch", "plays"),
        }
        (witness,) = (
            tea.Experiment({"m": metrics[columns.metric]}, variant="variation")
            .analyze(users, control="control")
            .to_dicts()
        )
    arms = raw(from_users(users, [columns]), columns.metric)
    absolute, _ = compare(arms["control"], arms["recgpt"], columns.kind)
    names = ("effect_size", "effect_size_ci_lower", "effect_size_ci_upper", "pvalue")
    assert_allclose(
        [absolute.estimate, *absolute.interval(0.05), absolute.p_value()], [witness[name] for name in names], rtol=1e-9
    )


def test_variance_falls_by_the_squared_correlation(users):
    rows = [row for row in from_users(users, COLUMNS[1:2]) if row.cap is None]
    correlation = users.select(pl.corr("plays", "plays_before")).item()
    assert variance_reduction(*rows) == pytest.approx(correlation**2, rel=0.05)


# --- sums

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


@given(VALUES, VALUES)
def test_adding_sums_is_summing_the_union(first, second):
    together = Moments.of_users(np.array(first + second), x=np.array(second + first))
    split = len(first)
    covariate = np.array(second + first)
    parts = Moments.of_users(np.array(first), x=covariate[:split]) + Moments.of_users(
        np.array(second), x=covariate[split:]
    )
    for name in MOMENTS:
        assert_allclose(getattr(parts, name), getattr(together, name), rtol=1e-9, atol=1e-6)


@given(
    st.lists(st.floats(0, 100), min_size=3, max_size=20, unique=True),
    st.lists(st.floats(0, 100), min_size=3, max_size=20, unique=True),
)
def test_swapping_the_arms_flips_the_signs(first, second):
    a, b = (Moments.of_users(np.array(values), x=np.sqrt(np.array(values))) for values in (first, second))
    there, back = (compare(*pair, Kind.MEAN)[0] for pair in ((a, b), (b, a)))
    assert there.estimate == pytest.approx(-back.estimate, abs=1e-9)
    assert there.error == pytest.approx(back.error, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1 / 3, 7.0, 1e5])
def test_a_perfect_covariate_leaves_no_error_and_no_nan(scale):
    values = np.random.default_rng(0).uniform(0, 100, (2, 50))
    first, second = (Moments.of_users(row, x=scale * row) for row in values)
    error = compare(first, second, Kind.MEAN)[0].error
    assert error == pytest.approx(0, abs=1e-5)


def test_a_mean_is_the_ratio_with_denominator_1(users):
    plays = users["plays"].to_numpy().astype(float)
    mean, ratio = Moments.of_users(plays), Moments.of_users(plays, np.ones_like(plays))
    other = Moments.of_users(plays * 1.1)
    assert compare(mean, other, Kind.MEAN) == compare(ratio, other, Kind.RATIO)


def test_arrays_are_judged_as_their_numbers_are():
    values = np.random.default_rng(0).gamma(2, 1, (2, 5, 40))
    arms = [Moments.of_users(part, x=np.sqrt(part)) for part in values]
    at_once, _ = compare(*arms, Kind.MEAN)
    alone, _ = compare(*(Moments.of_users(part[3], x=np.sqrt(part[3])) for part in values), Kind.MEAN)
    assert_allclose(
        [at_once.p_value()[3], at_once.always_valid_p(0.05)[3]], [alone.p_value(), alone.always_valid_p(0.05)]
    )


def test_the_table_comes_back_from_a_frame(users):
    rows = from_users(users, COLUMNS)
    assert from_frame(to_frame(rows)) == rows


def test_shards_of_users_add_up(users):
    whole = from_users(users, [replace(COLUMNS[1])])
    shards = [from_users(part, COLUMNS[1:2]) for part in (users.head(1_000), users.tail(2_000))]
    shards = [[row for row in rows if row.cap is None] for rows in shards]
    for row in combine(*shards):
        for name in MOMENTS:
            assert_allclose(getattr(row.moments, name), getattr(raw(whole, "cuped")[row.variation], name))


def test_capped_sums_of_other_caps_do_not_add_up():
    row = MetricStatistics(variation="a", metric="m", moments=CONTROL, cap=3.0)
    with pytest.raises(BadStatistics, match="do not add up"):
        combine([row], [replace(row, cap=4.0)])


def test_winsorised_stands_beside_raw():
    frame = pl.DataFrame({"variation": ["a", "b"] * 2_000, "plays": [1.0] * 3_999 + [1e6]})
    rows = {row.key: row for row in from_users(frame, [MetricColumns(metric="plays", value="plays")])}
    assert rows["b", "plays", False].moments.sum_y == 1e6 + 1_999
    capped = rows["b", "plays", True]
    assert capped.cap == pytest.approx(1 + 0 * 1e6, abs=1e3)
    assert capped.moments.sum_y == pytest.approx(1_999 + capped.cap)


def test_the_query_of_the_page_writes_the_table(users):
    """docs/experiments.md: the SQL is run as it stands."""
    page = (Path(__file__).parents[4] / "docs" / "experiments.md").read_text()
    query = page.split("```sql\n")[1].split("```")[0]
    table = pl.SQLContext(users=users).execute(query, eager=True)
    rows, ours = from_frame(table), raw(from_users(users, COLUMNS[1:2]), "cuped")
    assert len(rows) == 2
    for row in rows:
        for name in MOMENTS:
            assert_allclose(getattr(row.moments, name), getattr(ours[row.variation], name), rtol=1e-12)


# --- refusals

MISTAKES = {
    "negative n": ({"n": -5.0}, "at least 2 users"),
    "half a user": ({"n": 10.5}, "whole numbers"),
    "NaN": ({"sum_y": math.nan}, "not a finite number"),
    "infinite": ({"sum_xx": math.inf}, "not a finite number"),
    "squares too small": ({"sum_yy": 1.0}, "less than any users give"),
    "no denominator": ({"sum_d": 0.0, "sum_yd": 0.0}, "positive denominator"),
    "product too large": ({"sum_yx": 1e9}, "larger than its squares allow"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_impossible_sums_are_refused(name):
    change, reason = MISTAKES[name]
    with pytest.raises(BadStatistics, match=reason):
        check(MetricStatistics(variation="a", metric="m", moments=replace(CONTROL, **change)))


def test_a_proportion_of_counts_is_refused():
    with pytest.raises(BadStatistics, match="not all 0 or 1"):
        check(MetricStatistics(variation="a", metric="m", moments=CONTROL, kind=Kind.PROPORTION))


FRAMES = {
    "no variation": ({"plays": [1, 2]}, "lack the column 'variation'"),
    "empty cell": ({"variation": ["a", "b"], "plays": [1, None]}, "has empty cells"),
    "words": ({"variation": ["a", "b"], "plays": ["x", "y"]}, "not numbers"),
    "NaN": ({"variation": ["a", "b"], "plays": [1.0, math.nan]}, "not finite"),
    "user twice": ({"variation": ["a", "b"], "user_id": [7, 7], "plays": [1, 2]}, "user 7 has more than one row"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_bad_user_rows_are_refused(name):
    frame, reason = FRAMES[name]
    with pytest.raises(BadStatistics, match=reason):
        from_users(pl.DataFrame(frame), [MetricColumns(metric="plays", value="plays")])


TABLES = {
    "unknown column": ({"day": [1]}, "unknown column 'day'"),
    "unknown kind": ({"kind": ["median"]}, "kind 'median'"),
    "ratio without its sums": ({"kind": ["ratio"]}, "needs sum_d"),
    "no number": ({"sum_yy": ["many"]}, "no number"),
    "empty": ({"n": [None]}, "has no n"),
}


@pytest.mark.parametrize("name", TABLES)
def test_bad_tables_are_refused(name):
    change, reason = TABLES[name]
    row = {"variation": ["a"], "metric": ["m"], "n": [9.0], "sum_y": [3.0], "sum_yy": [3.0]} | change
    with pytest.raises(BadStatistics, match=reason):
        from_frame(pl.DataFrame(row))


# --- sample ratio


def test_sample_ratio_by_chi_square():
    assert chi_square_p(np.array([15257.0, 15752.0]), np.array([0.5, 0.5])) == pytest.approx(0.00493873, abs=5e-9)
    assert chi_square_p(np.array([9000.0, 1000.0, 100.0]), np.array([0.89, 0.1, 0.01])) == pytest.approx(
        0.940648, abs=5e-7
    )


@pytest.mark.parametrize(
    ("counts", "final", "state"),
    [
        ((15257, 15752), True, RatioState.YELLOW),
        ((15257, 15752), False, RatioState.GREEN),
        ((50000, 47500), False, RatioState.RED),
        ((50000, 47500), True, RatioState.RED),
        ((0, 200), False, RatioState.RED),
    ],
)
def test_sample_ratio_state(counts, final, state):
    assert judge_ratio(dict(zip("ab", counts, strict=True)), {"a": 0.5, "b": 0.5}, final).state is state


def test_sequential_p_is_the_ratio_of_two_likelihoods():
    """The Dirichlet-multinomial probability of one order of 3 and 1, over that of fair draws."""
    prior = 500
    drawn = prior * (prior + 1) * (prior + 2) * prior / (1000 * 1001 * 1002 * 1003)
    assert sequential_p(np.array([3.0, 1.0]), np.array([0.5, 0.5])) == pytest.approx(min(1, 0.5**4 / drawn))


@pytest.mark.parametrize(
    ("users", "weights", "reason"),
    [
        ({"a": 5}, {"a": 1.0}, "two variations"),
        ({"a": 5, "b": 5}, {"a": 0.5, "b": 0.6}, "sum to 1.1"),
        ({"a": 5, "b": 5}, {"a": 1.5, "b": -0.5}, "positive"),
        ({"a": 5, "b": 5}, {"a": 0.5, "c": 0.5}, "weights of a, c"),
        ({"a": 5, "b": -5}, {"a": 0.5, "b": 0.5}, "negative"),
        ({"a": 0, "b": 0}, {"a": 0.5, "b": 0.5}, "all 0"),
        ({"a": 5, "b": 5}, {"a": 0.5, "b": math.nan}, "positive"),
    ],
)
def test_counts_that_do_not_fit_are_refused(users, weights, reason):
    with pytest.raises(BadStatistics, match=reason):
        judge_ratio(users, weights, final=True)


# --- power

PLAYS = Baseline(name="plays", mean=2.82092, deviation=3.30181)


def test_users_for_2_percent_of_kuairand():
    """docs/experiments.md: 25,156 users of KuaiRand-Pure."""
    assert users_per_arm(PLAYS, 0.02, ErrorRates()) == pytest.approx(53_766, rel=1e-3)


def test_the_lift_of_the_planned_users_is_the_planned_one():
    users = users_per_arm(PLAYS, 0.02, ErrorRates())
    assert detectable_lift(PLAYS, users, ErrorRates()) == pytest.approx(0.02, rel=1e-4)


def test_a_covariate_saves_the_squared_correlation():
    halved = replace(PLAYS, correlation=math.sqrt(0.5))
    assert users_per_arm(halved, 0.02, ErrorRates()) == pytest.approx(53_766 / 2, rel=1e-3)


def test_looking_at_any_time_costs_users():
    fixed, any_time = (plan(PLAYS, 0.02, ErrorRates()) for plan in (users_per_arm, users_per_arm_any_time))
    assert 1.5 * fixed < any_time < 4 * fixed


def test_a_rate_has_the_deviation_of_a_coin():
    assert Baseline.of_rate("likes", 0.2).deviation == pytest.approx(0.4)


def test_days_are_whole():
    assert days(53_766, 20_000) == 6


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: Baseline(name="plays", mean=0, deviation=1),
        lambda: Baseline(name="plays", mean=1, deviation=math.nan),
        lambda: Baseline(name="plays", mean=1, deviation=1, correlation=1),
        lambda: Baseline.of_rate("likes", 1.0),
        lambda: ErrorRates(alpha=0),
        lambda: ErrorRates(power=1),
        lambda: users_per_arm(PLAYS, 0.0, ErrorRates()),
        lambda: detectable_lift(PLAYS, 1, ErrorRates()),
        lambda: days(5, 0),
    ],
)
def test_impossible_plans_are_refused(attempt):
    with pytest.raises(BadStatistics):
        attempt()
