"""`recall experiment plan`: metrics from options and files, and a sentence for each that is none."""

import pytest
import typer

from recall.experiments.planning import make_baseline, parse_baseline, read_baselines, show_number
from service.errors import BadStatistics
from service.experiments.verdict.power import ErrorRates, days, detectable_lift, users_per_arm, users_per_arm_any_time

PLAYS = parse_baseline("plays=9.1/10.6")


def test_a_mean_and_its_deviation_are_a_metric():
    assert (PLAYS.name, PLAYS.mean, PLAYS.deviation) == ("plays", 9.1, 10.6)


def test_a_rate_has_the_deviation_of_a_coin():
    assert parse_baseline("likes=.2").deviation == pytest.approx(0.4)


@pytest.mark.parametrize("text", ["plays", "9.1/10.6"])
def test_a_metric_without_its_name_is_told_the_form(text):
    with pytest.raises(typer.BadParameter, match="NAME=MEAN/SD or NAME=RATE"):
        parse_baseline(text)


@pytest.mark.parametrize("text", ["plays=many", "plays=9.1/", "plays=/10", "plays=9.1/10.6/3"])
def test_a_metric_without_numbers_is_refused(text):
    with pytest.raises(ValueError, match="a metric needs a name, and numbers"):
        parse_baseline(text)


@pytest.mark.parametrize("text", ["likes=0", "likes=1", "likes=1.5"])
def test_a_rate_is_a_share_of_the_users(text):
    with pytest.raises(BadStatistics, match="likes: a rate lies between 0 and 1"):
        parse_baseline(text)


@pytest.mark.parametrize("text", ["plays=0/1", "plays=1/0", "plays=nan/1", "plays=1/inf"])
def test_a_metric_that_nobody_has_cannot_be_planned(text):
    with pytest.raises(BadStatistics, match="plays: "):
        parse_baseline(text)


@pytest.mark.parametrize("row", [{"mean": 1}, {"sd": 1}, {"mean": 1, "sd": 1, "rate": 0.5}, {}])
def test_a_row_is_of_a_mean_or_of_a_rate(row):
    with pytest.raises(ValueError, match="here: plays needs mean and sd, or rate alone"):
        make_baseline({"name": "plays"} | row, "here")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.yaml", "plays: {mean: 9.1, sd: 10.6}\nlikes: {rate: 0.2, correlation: 0.5}\n"),
        ("m.csv", "name,mean,sd,rate,correlation\nplays,9.1,10.6,,\nlikes,,,0.2,0.5\n"),
    ],
)
def test_files_of_both_forms_say_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    plays, likes = read_baselines(tmp_path / name)
    assert plays == PLAYS
    assert (likes.mean, likes.correlation) == (0.2, 0.5)


@pytest.mark.parametrize("text", ["[1, 2]", "plays: 9.1", "just words", ""])
def test_a_file_that_is_no_map_of_metrics_is_refused(tmp_path, text):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"m\.yaml is not a YAML map of metrics"):
        [*read_baselines(tmp_path / "m.yaml")]


def test_numbers_are_short_and_counts_are_whole():
    assert [show_number(value) for value in ("plays", 12345, 0.123456)] == ["plays", "12,345", "0.1235"]


def test_looks_at_any_time_cost_users_and_half_a_lift_costs_four_times_as_many():
    rates = ErrorRates()
    assert users_per_arm_any_time(PLAYS, 0.02, rates) > users_per_arm(PLAYS, 0.02, rates)
    assert users_per_arm(PLAYS, 0.01, rates) == pytest.approx(4 * users_per_arm(PLAYS, 0.02, rates), rel=1e-3)


def test_a_covariate_that_explains_half_saves_half():
    explained = make_baseline({"name": "plays", "mean": 9.1, "sd": 10.6, "correlation": 0.5**0.5}, "here")
    assert users_per_arm(explained, 0.02, ErrorRates()) == pytest.approx(
        users_per_arm(PLAYS, 0.02, ErrorRates()) / 2, rel=1e-3
    )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: users_per_arm(PLAYS, 0, ErrorRates()), "the lift to find must not be 0"),
        (lambda: detectable_lift(PLAYS, 1, ErrorRates()), "at least 2 users an arm"),
        (lambda: days(10, 0), "users a day must be positive"),
        (lambda: ErrorRates(alpha=0.9), "power between alpha and 1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong, sentence):
    with pytest.raises(BadStatistics, match=sentence):
        wrong()


def test_the_command_prints_a_table_and_json(run_recall):
    ended = run_recall("experiment", "plan", "--metric", "plays=9.1/10.6", "--users-per-day", 1000, "--json")
    [row] = ended.last_line["metrics"]
    assert row["users_an_arm"] == users_per_arm(PLAYS, 0.02, ErrorRates())
    assert row["days"] == days(row["users_an_arm"], 1000)
    assert "a lift of +2.00%" in ended.out


def test_nothing_to_plan_is_a_sentence(run_recall):
    ended = run_recall("experiment", "plan")
    assert (ended.status, ended.sentence[:24]) == (2, "recall: nothing to plan:")
