"""recall experiment: the plan and the verdict through the real command."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from service.experiments.verdict.statistics import MetricColumns, from_users, to_frame

GROUP = ("plan", "judge")


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """Per-user rows: recgpt has a tenth more plays, and fails too often."""
    rng = np.random.default_rng(1)
    n, arm, appetite = 8_000, np.arange(8_000) % 2, rng.gamma(2, 1, 8_000)
    plays, requests = rng.poisson(5 * appetite * (1 + 0.1 * arm)), rng.poisson(5, n) + 1
    path = tmp_path_factory.mktemp("experiment") / "users.parquet"
    pl.DataFrame(
        {
            "user_id": np.arange(n),
            "variation": np.where(arm, "recgpt", "control"),
            "plays": plays,
            "plays_before": rng.poisson(5 * appetite),
            "liked": rng.random(n) < 0.1,
            "requests": requests,
            "errors": rng.binomial(requests, 0.03 * arm),
        }
    ).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def judged(run_recall, users):
    rate = ("--ratio", "error_rate=errors/requests")
    return run_recall(
        "experiment", "judge", "--statistics", users, "--primary", "plays", "--metrics", "plays,liked", *rate, "--json"
    )


@pytest.mark.parametrize("command", GROUP)
def test_each_command_explains_itself(run_recall, command):
    ended = run_recall("experiment", command, "--help")
    assert (ended.status, ended.err) == (0, "")


# --- judge


def test_verdict_as_a_table(judged):
    assert judged.status == 0, judged.err
    assert "sample ratio green: control 4,000 of 4,000" in judged.out
    assert "plays: recgpt better than control (look: any time)" in judged.out
    assert "liked: no clear difference; one larger than" in judged.out
    assert "(CUPED: " in judged.out
    assert "pause recommended: recgpt breaches a guard rail" in judged.out
    assert max(len(line) for line in judged.out.splitlines()[:-1]) <= 100


def test_verdict_as_json(judged):
    verdict = judged.last_line
    assert [row["metric"] for row in verdict["metrics"]] == ["plays", "liked"]
    plays = verdict["metrics"][0]
    low, high = plays["relative"]["always_valid"]
    assert low < 0.1 < high
    assert plays["variance_reduction"] > 0.3
    assert (verdict["pause"], verdict["guardrails"][0]["state"]) == (["recgpt"], "breached")


@pytest.mark.parametrize("form", ["parquet", "csv", "json"])
def test_sums_give_the_verdict_of_the_users(run_recall, judged, users, tmp_path, form):
    columns = MetricColumns(metric="plays", value="plays", covariate="plays_before")
    table, path = to_frame(from_users(pl.read_parquet(users), [columns])), tmp_path / f"sums.{form}"
    getattr(table, f"write_{form}")(path)
    ended = run_recall("experiment", "judge", "--statistics", path, "--primary", "plays", "--json")
    assert ended.status == 0, ended.err
    ours, theirs = ended.last_line["metrics"][0]["relative"], judged.last_line["metrics"][0]["relative"]
    assert ours["fixed"] == pytest.approx(theirs["fixed"])


def test_files_of_other_users_add_up(run_recall, judged, users, tmp_path):
    frame = pl.read_parquet(users).select("user_id", "variation", "plays", "plays_before")
    parts = []
    for number, part in enumerate((frame.head(3_000), frame.tail(5_000))):
        part.write_parquet(tmp_path / f"{number}.parquet")
        parts += ["--statistics", tmp_path / f"{number}.parquet"]
    ended = run_recall("experiment", "judge", *parts, "--primary", "plays", "--json")
    row, whole = ended.last_line["metrics"][0], judged.last_line["metrics"][0]
    assert row["absolute"]["fixed"] == pytest.approx(whole["absolute"]["fixed"])
    assert row["winsorised"]["cap"] == whole["winsorised"]["cap"]


def test_no_lift_is_shown_while_the_ratio_is_red(run_recall, users):
    places = ("--statistics", users, "--primary", "plays", "--metrics", "plays")
    ended = run_recall("experiment", "judge", *places, "--weights", "control=.9,recgpt=.1")
    assert ended.status == 0, ended.err
    assert "not shown: sample ratio mismatch" in ended.out
    assert "better" not in ended.out


def test_options_reach_the_plan(run_recall, users):
    places = ("--statistics", users, "--primary", "plays", "--metrics", "plays,requests")
    rails = ("--guardrail", "requests=50%", "--lower-is-better", "plays", "--final", "--alpha", "0.01")
    ended = run_recall("experiment", "judge", *places, *rails, "--json")
    assert ended.status == 0, ended.err
    assert (ended.last_line["look"], ended.last_line["alpha"]) == ("final", 0.01)
    assert ended.last_line["metrics"][0]["decision"] == "recgpt worse than control"
    assert ended.last_line["guardrails"][0]["tolerance"] == 0.5


MISTAKES = {
    "no file": (["--statistics", "nowhere.parquet", "--primary", "plays"], "there is no file nowhere.parquet"),
    "other format": (["--statistics", "table.xlsx", "--primary", "plays"], "is none of .parquet, .csv, .json"),
    "no such metric": (["--statistics", "USERS", "--primary", "plays", "--metrics", "likes"], "'likes'"),
    "no such primary": (["--statistics", "USERS", "--primary", "likes"], "primary metric 'likes' is not"),
    "no such control": (["--statistics", "USERS", "--primary", "plays", "--control", "c"], "control 'c' is none"),
    "weights": (["--statistics", "USERS", "--primary", "plays", "--weights", "control=.5,recgpt=.4"], "sum to 0.9"),
    "ratio": (["--statistics", "USERS", "--primary", "plays", "--ratio", "errors/requests"], "is not NAME=COLUMN"),
    "no share": (
        ["--statistics", "USERS", "--primary", "plays", "--weights", "control=a"],
        "share of control is 'a'",
    ),
    "no such guard rail": (
        ["--statistics", "USERS", "--primary", "plays", "--guardrail", "crashes=1%"],
        "--guardrail names 'crashes', and the metrics are latency_ms, error_rate",
    ),
    "no such falling metric": (
        ["--statistics", "USERS", "--primary", "plays", "--lower-is-better", "hides"],
        "--lower-is-better names 'hides', and the metrics are plays, liked",
    ),
    "same users twice": (["--statistics", "TWICE", "--primary", "plays"], "user 0 has more than one row"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_sentence(run_recall, users, tmp_path, name):
    args, reason = MISTAKES[name]
    frame = pl.read_parquet(users)
    pl.concat([frame, frame]).write_parquet(tmp_path / "twice.parquet")
    places = {"USERS": users, "TWICE": tmp_path / "twice.parquet"}
    ended = run_recall("experiment", "judge", *(places.get(arg, arg) for arg in args))
    assert ended.status == 2
    assert reason in ended.sentence


def test_without_scipy_the_sentence_names_the_extra(users, tmp_path):
    (tmp_path / "scipy.py").write_text("raise ImportError('not installed')")
    command = [sys.executable, "-m", "recall", "experiment", "judge", "--statistics", users, "--primary", "plays"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "recall: judging experiments needs SciPy: pip install 'recgpt-recall[analysis]'\n"


# --- plan

RATES = """
plays: {mean: 2.82092, sd: 3.30181}
likes: {mean: 0.15563, sd: 0.73809}
liked: {rate: 0.05}
plays with covariate: {mean: 2.82092, sd: 3.30181, correlation: 0.5}
"""
NEEDED = {"plays": 53_766, "likes": 882_705, "liked": 745_644, "plays with covariate": 40_324}


@pytest.fixture(scope="module")
def planned(run_recall, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "metrics.yaml"
    path.write_text(RATES)
    return run_recall("experiment", "plan", "--metrics", path, "--users-per-day", 20_000, "--users", 12_500, "--json")


def test_users_an_arm_for_2_percent(planned):
    assert planned.status == 0, planned.err
    rows = {row["metric"]: row for row in planned.last_line["metrics"]}
    assert {name: row["users_an_arm"] for name, row in rows.items()} == pytest.approx(NEEDED, rel=1e-3)
    assert (rows["plays"]["days"], rows["liked"]["days"]) == (6, 75)
    assert rows["plays"]["users_an_arm_any_time"] > rows["plays"]["users_an_arm"]
    assert rows["plays"]["smallest_lift"] == pytest.approx(0.0415, abs=1e-3)


def test_the_plan_is_a_table(planned):
    assert "a lift of +2.00%, alpha 0.05, power 0.8" in planned.out
    assert "plays with covariate" in planned.out
    assert "+4.15%" in planned.out


def test_csv_and_options_plan_the_same(run_recall, planned, tmp_path):
    (tmp_path / "m.csv").write_text("name,mean,sd,rate\nplays,2.82092,3.30181,\n")
    options = ("--metric", "likes=0.15563/0.73809", "--metric", "liked=0.05")
    ended = run_recall("experiment", "plan", "--metrics", tmp_path / "m.csv", *options, "--json")
    users = {row["metric"]: row["users_an_arm"] for row in ended.last_line["metrics"]}
    assert users == {
        row["metric"]: row["users_an_arm"]
        for row in planned.last_line["metrics"]
        if row["metric"] != "plays with covariate"
    }


PLAN_MISTAKES = {
    "nothing": ([], "nothing to plan"),
    "no number": (["--metric", "plays=many"], "a metric needs a name, and numbers"),
    "no pair": (["--metric", "plays"], "is not NAME=MEAN/SD"),
    "rate above 1": (["--metric", "likes=3"], "a rate lies between 0 and 1"),
    "no lift": (["--metric", "likes=.3", "--lift", "0"], "must not be 0"),
    "no days": (["--metric", "likes=.3", "--users-per-day", "0"], "users a day must be positive"),
    "list": (["--metrics", "LIST"], "is not a YAML map"),
    "no file": (["--metrics", "nowhere.yaml"], "recall: nowhere.yaml: No such file or directory"),
}


@pytest.mark.parametrize("name", PLAN_MISTAKES)
def test_plan_mistake_is_one_sentence(run_recall, tmp_path, name):
    args, reason = PLAN_MISTAKES[name]
    (tmp_path / "list.yaml").write_text("- plays")
    ended = run_recall("experiment", "plan", *(tmp_path / "list.yaml" if arg == "LIST" else arg for arg in args))
    assert ended.status == 2
    assert reason in ended.sentence
