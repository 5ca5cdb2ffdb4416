"""recall compare: two checkpoints, or a plan against its own first vector."""

import json
from dataclasses import replace

import pytest

from model.checkpoint import Checkpoint
from model.records import ServingPlan
from recall.comparing import check_same_data


@pytest.fixture(scope="module")
def data(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "data"
    tiny.save(folder)
    return folder


def test_a_plan_against_its_own_first_vector(run_recall, checkpoints, data):
    ended = run_recall("compare", "--checkpoint", checkpoints["recgpt"], "--data", data, "--cutoff", 20)
    assert ended.status == 0, ended.err
    answer = json.loads(ended.out.splitlines()[-1])
    assert (answer["split"], answer["users"], answer["seeds"]) == ("valid", 50, 1)
    result = answer["results"]["recall@20"]
    assert 0 < result["overlap"] < 1


def test_two_systems_and_back(run_recall, checkpoints, data):
    arms = [checkpoints["recgpt"], checkpoints["comirec"]]
    results = []
    for ours, theirs in (arms, arms[::-1]):
        ended = run_recall("compare", "--checkpoint", ours, "--against", theirs, "--data", data)
        assert ended.status == 0, ended.err
        results.append(json.loads(ended.out.splitlines()[-1])["results"]["recall@50"])
    assert (results[0]["ours"], results[0]["theirs"]) == (results[1]["theirs"], results[1]["ours"])
    assert results[0]["overlap"] == results[1]["overlap"]


def test_a_comparison_needs_pairs(run_recall, checkpoints, data):
    arm = checkpoints["recgpt"]
    ended = run_recall("compare", "--checkpoint", arm, "--against", arm, "--against", arm, "--data", data)
    assert ended.status == 2
    assert "--against is given 2 times for 1 --checkpoint" in ended.err


def test_another_data_set_is_refused(run_recall, checkpoints, data):
    ended = run_recall("compare", "--checkpoint", checkpoints["words"], "--data", data)
    assert ended.status == 2
    assert "other data than these" in ended.sentence


def test_a_plan_that_asks_for_outcomes_is_not_compared(checkpoints, tiny):
    own = Checkpoint.load(checkpoints["recgpt"])
    check_same_data(own, tiny)
    with pytest.raises(ValueError, match="a plan that asks for outcomes is measured with its bundle"):
        check_same_data(replace(own, plan=ServingPlan(outcomes=(("like", 1.0),))), tiny)


def test_groups_of_users_and_of_targets(run_recall, checkpoints, data):
    arm = checkpoints["recgpt"]
    ended = run_recall("compare", "--checkpoint", arm, "--data", data, "--by", "history", "--by", "popularity")
    assert ended.status == 0, ended.err
    answer = json.loads(ended.out.splitlines()[-1])
    users = {by: sum(g["users"] for g in answer["groups"] if g["by"] == by) for by in ("history", "popularity")}
    # every user stands in one group of histories, and in as many of popularity as its targets do
    assert users["history"] == answer["users"] <= users["popularity"]
    whole = answer["results"]["recall@100"]["ours"] * answer["users"]
    parts = [group for group in answer["groups"] if group["by"] == "history"]
    assert sum(group["ours"] * group["users"] for group in parts) == pytest.approx(whole)


def test_an_unknown_grouping_is_refused(run_recall, checkpoints, data):
    ended = run_recall("compare", "--checkpoint", checkpoints["recgpt"], "--data", data, "--by", "age")
    assert ended.status == 2
    assert "--by is 'age'; it is history or popularity" in ended.err.replace("\n", " ")
