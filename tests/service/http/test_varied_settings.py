"""Experiments on what lists are asked for, over HTTP: an outcome and diversity that a variation gives an arm."""

import json

import httpx
import pytest
import redis

from service.events.streams import EXPOSURES
from service.experiments.assignment import Assigner
from service.experiments.exposure import Exposure
from service.experiments.layers import ArmSettings
from tests.waiting import wait_for

TOP_N = 30
RULE = {"hashAttribute": "user_id", "hashVersion": 2}
ASKED = {"recgpt": {"outcome": "like"}, "comirec": {"outcome": "like"}}
RULES = {
    "recall_arm": [RULE | {"key": "network", "variations": ["comirec", "recgpt"]}],
    "recall_settings": [RULE | {"key": "ends", "variations": [{}, ASKED]}],
    "recall_settings_novel": [RULE | {"key": "novel", "variations": [{}, {"recgpt": {"diversity": 0.5}}]}],
}
DEFAULTS = {"recall_arm": "comirec"}
FEATURES = {name: {"defaultValue": DEFAULTS.get(name, {}), "rules": rules} for name, rules in RULES.items()}
USERS = [f"user-{number}" for number in range(24)]
LIKED, NOVEL, BOTH = ArmSettings("like"), ArmSettings(None, 0.5), ArmSettings("like", 0.5)


@pytest.fixture(scope="module", params=[(), ("--http-workers", "2")], ids=["one process", "an engine of its own"])
def served(request, launch, arm_options, tmp_path_factory):
    path = tmp_path_factory.mktemp("experiments") / "experiments.json"
    path.write_text(json.dumps({"features": FEATURES}))
    patient = ("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000")
    with launch(*arm_options, *patient, "--experiments", str(path), *request.param) as running:
        yield running


@pytest.fixture(scope="module")
def ask(served):
    with httpx.Client(base_url=served.url, timeout=60) as client:

        def answer(path="/recall", **body):
            reply = client.post(path, json=body)
            assert reply.status_code == 200, reply.text
            return reply.json()

        yield answer


@pytest.fixture(scope="module")
def assigned():
    """The assignment of each user, offline."""
    assigner = Assigner.from_features({"features": FEATURES}, ["recgpt", "comirec"])
    return {user: assigner.assign(user) for user in USERS}


@pytest.fixture(scope="module")
def by_settings(assigned):
    """A user of RecGPT under each of the settings."""
    users = {own.settings: user for user, own in assigned.items() if own.arm == "recgpt"}
    assert set(users) == {None, LIKED, NOVEL, BOTH}
    return users


def body_of(user, known, **more):
    return {"user_id": user, "history": known[3:9], "top_n": TOP_N, **more}


def named(settings, known):
    """The items of a request that names these settings itself."""
    asked = {name: value for name, value in settings._asdict().items() if value} if settings else {}
    return {"history": known[3:9], "top_n": TOP_N, **asked}


def test_a_list_is_that_of_a_request_that_names_the_settings(ask, known, by_settings):
    lists = {settings: ask(**body_of(user, known))["items"] for settings, user in by_settings.items()}
    assert lists == {
        settings: ask("/recall/recgpt", user_id=user, **named(settings, known))["items"]
        for settings, user in by_settings.items()
    }
    assert len({tuple(items) for items in lists.values()}) == len(lists)


def test_a_batch_is_its_members_alone(ask, known):
    bodies = [body_of(user, known) for user in USERS]
    batch = ask("/recall/batch", requests=bodies)["responses"]
    alone = [ask(**body) for body in bodies]
    for name in ("items", "scores", "degraded", "arm", "experiment"):
        assert [answer[name] for answer in batch] == [answer[name] for answer in alone]


def test_what_the_request_names_goes_before(ask, known, by_settings):
    user, own = by_settings[BOTH], {"outcome": "follow", "diversity": 0.1}
    answer = ask(**body_of(user, known, explain=True, **own))
    assert answer["items"] == ask("/recall/recgpt", **body_of(user, known, **own))["items"]
    assert {*answer["sources"]} == {"follow"}
    assert {*ask(**body_of(user, known, explain=True))["sources"]} == {"like"}


def test_a_cached_vector_serves_the_settings_too(ask, known, by_settings):
    user = by_settings[LIKED]
    bodies = {"user_id": user, "history": known[20:31], "top_n": TOP_N}
    computed, cached = ask(**bodies), ask(**bodies)
    assert (computed["cache"], cached["cache"]) == ("miss", "hit")
    assert computed["items"] == cached["items"]
    assert ask("/recall/recgpt", **bodies)["cache"] == "hit"


def test_an_outcome_that_the_bundle_does_not_have_is_told_and_the_list_is_plain(ask, known, assigned):
    user = next(user for user, own in assigned.items() if (own.arm, own.settings) == ("comirec", LIKED))
    answer, plain = ask(**body_of(user, known)), ask("/recall/comirec", **body_of(user, known))
    assert (answer["degraded"], plain["degraded"]) == (["outcome_unknown"], [])
    assert (answer["items"], answer["arm"]) == (plain["items"], "comirec")


def test_exposures_have_the_settings_and_their_digest(served, ask, known, assigned, by_settings):
    user = by_settings[BOTH]
    ask(**body_of(user, known))
    with redis.Redis(unix_socket_path=(served.state / "redis" / "redis.where").read_text()) as events:

        def written():
            entries = [Exposure.from_json(fields[b"e"]) for _, fields in events.xrange(EXPOSURES)]
            own = {entry.experiment: entry for entry in entries if entry.unit == user}
            return own if len(own) == len(RULES) else {}

        kept = wait_for(written)
    assert {entry.settings for entry in kept.values()} == {'{"outcome":"like","diversity":0.5}'}
    own = assigned[user]
    assert {key: (entry.variation, entry.config) for key, entry in kept.items()} == {
        each.experiment: (each.variation, each.config) for each in (own, *own.crossed)
    }
