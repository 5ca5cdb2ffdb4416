"""Sessions, attributes and sticky buckets over HTTP: whom the experiment counts, and what exposure and feedback say."""

import json

import httpx
import pytest
import redis

from service.consumer.tables import TABLES
from service.events.streams import EXPOSURES, FEEDBACK, SHADOW
from service.experiments.assignment import Assigner
from service.experiments.conditions import RequestFacts
from service.experiments.exposure import Exposure, Shadowed
from service.experiments.feedback import FeedbackEvent
from tests.waiting import wait_for

RULE = {
    "key": "exp",
    "hashAttribute": "user_id",
    "fallbackAttribute": "session_id",
    "hashVersion": 2,
    "condition": {"country": {"$ne": "XX"}},
    "variations": ["comirec", "recgpt"],
    "meta": [{"key": "control"}, {"key": "treatment"}],
}


def features(**changes):
    return {"features": {"recall_arm": {"defaultValue": "comirec", "rules": [RULE | changes]}}}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("experiments") / "experiments.json"


@pytest.fixture(scope="module")
def sticky(launch, arm_options, path):
    path.write_text(json.dumps(features()))
    patient = ("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000")
    followed = ("--experiments", str(path), "--watch-experiments-s", "0.2", "--sticky-days", "30")
    # a service of its own costs seconds: the shadow arm is tried here too
    followed += ("--shadow-arm", "recgpt", "--shadow-share", "1")
    with launch(*arm_options, *patient, *followed) as running:
        yield running


@pytest.fixture(scope="module")
def api(sticky):
    with httpx.Client(base_url=sticky.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def streams(sticky):
    with redis.Redis(unix_socket_path=(sticky.state / "redis" / "redis.where").read_text()) as client:
        yield client


def ask(api, headers=None, **body):
    reply = api.post("/recall", json={"history": [10001], "top_n": 3} | body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


def read(streams, stream, decode, request_id):
    """The event of a request, once it is written."""

    def written():
        events = [decode(fields[b"e"]) for _, fields in streams.xrange(stream)]
        return next((event for event in events if event.request_id == request_id), None)

    return wait_for(written)


@pytest.mark.parametrize("where", ["body", "header"])
def test_a_session_is_the_unit_of_the_anonymous_in_exposure_and_feedback(api, streams, where):
    session = f"s-{where}"
    sent = {"headers": {"X-Session-Id": session}} if where == "header" else {}
    body = {} if where == "header" else {"session_id": session}
    answer = ask(api, **sent, **body)
    assigned = Assigner.from_features(features(), ["comirec", "recgpt"]).assign(None, facts=RequestFacts(session))
    assert (answer["experiment"]["reason"], answer["arm"]) == ("experiment", assigned.arm)
    exposure = read(streams, EXPOSURES, Exposure.from_json, answer["request_id"])
    assert (exposure.unit, exposure.variation) == (f"session_id||{session}", assigned.variation)
    event = {"item_id": answer["items"][0], "action": "play", "request_id": answer["request_id"]} | body
    assert api.post("/feedback", json=event, **sent).status_code == 202
    kept = read(streams, FEEDBACK, FeedbackEvent.from_json, answer["request_id"])
    assert (kept.user, kept.session) == (exposure.unit, session)


def test_a_user_counts_as_user_and_the_feedback_names_the_session_too(api, streams):
    answer = ask(api, user_id=7, session_id="of 7")
    assert read(streams, EXPOSURES, Exposure.from_json, answer["request_id"]).unit == "7"
    event = {"user_id": "7", "session_id": "of 7", "item_id": 10008, "action": "like"}
    assert api.post("/feedback", json=event | {"request_id": answer["request_id"]}).status_code == 202
    kept = read(streams, FEEDBACK, FeedbackEvent.from_json, answer["request_id"])
    assert (kept.user, kept.session) == ("7", "of 7")


def test_members_of_a_batch_have_their_own_sessions(api):
    members = [{"session_id": f"m-{n}", "history": [], "top_n": 1} for n in range(30)]
    answers = api.post("/recall/batch", json={"requests": members}).json()["responses"]
    assert {answer["experiment"]["reason"] for answer in answers} == {"experiment"}
    assert {answer["arm"] for answer in answers} == {"comirec", "recgpt"}


def test_without_user_and_session_the_default_arm_answers_and_says_so(api):
    assert ask(api)["experiment"] == {"key": None, "assigned": "comirec", "served": "comirec", "reason": "no_unit"}


@pytest.mark.parametrize(
    ("route", "body", "sentence"),
    [
        ("/recall", {"session_id": "a"}, "the body names another session_id"),
        ("/recall/batch", {"requests": [{"session_id": "a"}]}, "each member has its own"),
        ("/recall", {"attributes": {"user_id": 5}}, "user_id is a field of its own"),
        ("/recall", {"attributes": {"device.os": "ios"}}, "attributes"),
        ("/recall", {"attributes": {"device": {"os": "ios"}}}, "attributes"),
        ("/feedback", {"session_id": "a", "item_id": 10001, "action": "play"}, "another session_id"),
        ("/feedback", {"item_id": 10001, "action": "hide"}, "hide: needs a user_id"),
    ],
)
def test_what_nobody_could_mean_is_refused(api, route, body, sentence):
    reply = api.post(route, json=body, headers={"X-Session-Id": "b"})
    assert (reply.status_code, sentence in reply.json()["message"]) == (422, True), reply.text


def test_feedback_of_nobody_is_refused(api):
    reply = api.post("/feedback", json={"item_id": 10001, "action": "play"})
    assert (reply.status_code, "without one the session_id" in reply.json()["message"]) == (422, True)


def test_attributes_choose_who_is_in_the_experiment(api):
    reasons = [ask(api, user_id="there", attributes={"country": at})["experiment"]["reason"] for at in ("AT", "XX")]
    assert reasons == ["experiment", "not_in_experiment"]


def test_the_shadow_arm_computes_what_the_other_arm_has_answered(api, streams):
    answers = [ask(api, user_id=f"shadowed-{n}") for n in range(10)]
    answer = next(answer for answer in answers if answer["arm"] == "comirec")
    event = read(streams, SHADOW, Shadowed.from_json, answer["request_id"])
    assert (event.served, event.shadow, event.share) == ("comirec", "recgpt", 1)
    assert (event.items, event.variation) == (tuple(answer["items"]), "control")
    alone = api.post("/recall/recgpt", json={"history": [10001], "top_n": 3, "user_id": event.unit}).json()
    assert (event.shadow_items, event.shadow_bundle) == (tuple(alone["items"]), alone["bundle"])
    # whom the shadow arm has answered itself has no shadow: all that come before the last event are looked at
    arms = [answer["arm"] for answer in answers]
    last = max(n for n, arm in enumerate(arms) if arm == "comirec")
    assert "recgpt" in arms[:last]
    read(streams, SHADOW, Shadowed.from_json, answers[last]["request_id"])
    served = {Shadowed.from_json(fields[b"e"]).served for _, fields in streams.xrange(SHADOW)}
    assert served == {"comirec"}
    [table] = [table for table in TABLES if table.stream == SHADOW]
    [(_, fields)] = streams.xrange(SHADOW, count=1)
    assert table.decode("1-0", fields[b"e"]).keys() == table.schema.keys()


def change(sticky, path, **changes):
    """Puts the rule in force, and waits for it."""
    path.with_suffix(".new").write_text(json.dumps(features(**changes)))
    expected = Assigner.from_features(features(**changes), ["comirec", "recgpt"]).config
    path.with_suffix(".new").replace(path)
    wait_for(lambda: httpx.get(f"{sticky.url}/ready", timeout=60).json()["experiments"]["config"] == expected)


def test_who_is_in_stays_when_coverage_falls_and_a_session_stays_with_its_user(api, streams, sticky, path):
    users = [f"stays-{n}" for n in range(20)]
    before = {user: ask(api, session_id=f"s {user}")["arm"] for user in users}
    wait_for(lambda: all(streams.exists(f"sticky:session_id||s {user}") for user in users))
    change(sticky, path, coverage=0.001)
    try:
        logged_in = [ask(api, user_id=user, session_id=f"s {user}") for user in users]
        assert {user: answer["arm"] for user, answer in zip(users, logged_in, strict=True)} == before
        assert {answer["experiment"]["reason"] for answer in logged_in} == {"experiment"}
        members = [{"user_id": user, "history": [], "top_n": 1} for user in users]
        answers = api.post("/recall/batch", json={"requests": members}).json()["responses"]
        assert [answer["arm"] for answer in answers] == [*before.values()]
        assert ask(api, user_id="newcomer")["experiment"]["reason"] == "not_in_experiment"
    finally:
        change(sticky, path)
