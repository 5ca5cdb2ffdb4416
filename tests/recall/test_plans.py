"""recall build --plan: one network as two arms, which an experiment compares."""

import json

import httpx
import pytest

from index.bundle.files import read_manifest
from model.metadata import CheckpointMetadata
from model.records import Placement, PromptPlan, ServingPlan
from recall.training.plans import change_plan

TWO_STEPS = ServingPlan(PromptPlan(num_steps=2), quotas=(7, 3))


def test_named_values_take_the_place_of_the_plans():
    words = ["num_prompts=2", "placement=tail", "num_steps=1", "quotas=", "diversity=.25"]
    expected = ServingPlan(PromptPlan(2, Placement.TAIL), diversity=0.25)
    assert change_plan(TWO_STEPS, words) == expected


@pytest.mark.parametrize(
    ("text", "shares"),
    [("like", (("like", 1.0),)), ("long_view:0.8,like:0.2", (("long_view", 0.8), ("like", 0.2))), ("", ())],
)
def test_outcomes_are_shares_of_the_list(text, shares):
    assert change_plan(ServingPlan(), [f"outcomes={text}"]).outcomes == shares


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["outcomes=like:much"], "outcomes: 'like:much' is no value"),
        (["outcomes=like:.5"], "must be above 0 and sum to 1"),
        (["outcomes=like:.5,like:.5"], "each may stand once"),
        (["outcomes=like:.5,follow:.5"], "a plan that mixes outcomes has one query vector before"),
        (["steps=1"], "it takes NAME=VALUE with one of num_prompts, placement"),
        (["num_steps"], "it takes NAME=VALUE"),
        (["num_steps=two"], "num_steps: 'two' is no value of it"),
        (["placement=middle"], "placement: 'middle' is no value"),
        (["num_steps=1"], "one above 0 for each of 1 steps"),
        (["num_prompts=2"], "belong together"),
        (["placement=tail"], "belong together"),
        (["num_steps=9"], "must be 1 to 8"),
    ],
)
def test_what_is_no_plan_is_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        change_plan(TWO_STEPS, words)


@pytest.fixture(scope="module")
def short(run_recall, checkpoints, tmp_path_factory):
    """A bundle of the two-step network that takes one."""
    folder = tmp_path_factory.mktemp("bundles") / "short"
    made = run_recall(
        *("build", "--checkpoint", checkpoints["recgpt"], "--output", folder),
        *("--plan", "num_steps=1", "--plan", "quotas="),
    )
    assert made.status == 0, made.err
    return folder


def test_the_bundle_has_the_plan_and_no_metrics_of_another(short):
    assert CheckpointMetadata.read(short / "checkpoint").plan == ServingPlan()
    assert read_manifest(short).metrics == {}


def test_a_plan_that_the_network_cannot_have_is_refused(run_recall, checkpoints, tmp_path):
    refused = run_recall(
        "build", "--checkpoint", checkpoints["comirec"], "--output", tmp_path / "b", "--plan", "num_steps=2"
    )
    assert (refused.status, "takes one step" in refused.sentence) == (2, True)
    assert not (tmp_path / "b").exists()


def test_an_experiment_varies_the_steps_of_one_network(launch, bundles, short, tmp_path):
    rule = {"key": "steps", "hashAttribute": "user_id", "hashVersion": 2, "variations": ["recgpt", "short"]}
    path = tmp_path / "experiments.json"
    path.write_text(json.dumps({"features": {"recall_arm": {"defaultValue": "recgpt", "rules": [rule]}}}))
    arms = ("--arm", f"recgpt={bundles['recgpt']}", "--arm", f"short={short}")
    options = ("--experiments", str(path), "--redis-url", "memory", "--request-timeout-ms", "30000")
    sources = {"recgpt": set(), "short": set()}
    with launch(*arms, *options) as served, httpx.Client(base_url=served.url, timeout=60) as client:
        for user in range(12):
            body = {"user_id": user, "history": [10_001, 10_008], "top_n": 20, "explain": True}
            answer = client.post("/recall", json=body).json()
            sources[answer["arm"]] |= {*answer["sources"]}
    assert sources == {"recgpt": {"step1", "step2"}, "short": {"step1"}}
