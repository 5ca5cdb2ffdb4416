"""The experiment over HTTP: the same arms as offline, for ever, and exposures of those who count and of nobody else."""

import itertools
import time

import pytest

from service.events.streams import EXPOSURES, SHOWN
from service.events.streams import FORCED as FORCED_STREAM
from service.experiments.assignment import DEFAULT_FILE, Assigner
from service.experiments.exposure import Exposure, Shown

ARMS = ("recgpt", "comirec", "words")
USERS = [*range(150), *(f"user-{n}" for n in range(150))]
FORCED = {"X-AB-Bucket": "recgpt", "X-QA-Key": "only-for-tests"}
WRITE_LIMIT_S = 20


@pytest.fixture
def exposures(events, recall):
    """All exposures written, once one that was made just now has arrived: the outbox keeps the order."""
    numbers = itertools.count()

    def read() -> list[Exposure]:
        last = recall(user_id=f"the last one {time.monotonic_ns()} {next(numbers)}")["request_id"]
        deadline = time.monotonic() + WRITE_LIMIT_S
        while time.monotonic() < deadline:
            written = [Exposure.from_json(fields[b"e"]) for _, fields in events.xrange(EXPOSURES)]
            if written and written[-1].request_id == last:
                return written[:-1]
            time.sleep(0.02)
        pytest.fail(f"the exposure of {last} was not written")

    return read


@pytest.fixture(scope="module")
def answers(recall):
    """One answer of each user, by batches: /recall/batch is assigned like /recall."""
    groups = (USERS[start : start + 100] for start in range(0, len(USERS), 100))
    requests = ([{"user_id": user, "top_n": 1, "history": []} for user in group] for group in groups)
    return [answer for group in requests for answer in recall("/recall/batch", requests=group)["responses"]]


def test_arm_over_http_is_the_arm_offline(answers):
    assigner = Assigner.from_file(DEFAULT_FILE, ARMS)
    assert [answer["arm"] for answer in answers] == [assigner.assign(str(user)).arm for user in USERS]


def test_both_arms_get_about_half(answers):
    share = sum(answer["arm"] == "recgpt" for answer in answers) / len(answers)
    assert 0.4 < share < 0.6


def test_nobody_changes_arm_with_what_is_asked(recall, answers):
    for user, before in list(zip(USERS, answers, strict=True))[::15]:
        for body in ({"history": [10001]}, {"top_n": 50}, {"explain": True, "exclude": [10008]}):
            assert recall(user_id=user, **body)["experiment"] == before["experiment"]


def test_bucket_of_the_header_is_the_variation_of_the_arm(client):
    for user in USERS[:20]:
        reply = client.post("/recall", json={"user_id": user})
        assert reply.headers["X-AB-Bucket"] == {"comirec": "control", "recgpt": "recgpt"}[reply.json()["arm"]]


def test_without_a_user_the_control_arm_answers(client):
    reply = client.post("/recall", json={"history": [10001]})
    served = {"key": None, "assigned": "comirec", "served": "comirec", "reason": "no_unit"}
    assert reply.json()["experiment"] == served
    assert "X-AB-Bucket" not in reply.headers


def test_exposure_says_what_was_assigned_and_served(recall, exposures):
    answer = recall(user_id="exposed")
    [exposure] = [exposure for exposure in exposures() if exposure.request_id == answer["request_id"]]
    assert (exposure.unit, exposure.experiment, exposure.reason) == ("exposed", "recgpt-vs-comirec", "experiment")
    assert (exposure.assigned, exposure.served, exposure.bundle) == (answer["arm"], answer["arm"], answer["bundle"])


def test_members_of_a_batch_are_exposed(answers, exposures):
    assert len(answers) == len(USERS)
    assert {str(user) for user in USERS} <= {exposure.unit for exposure in exposures()}


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/recall/recgpt", {}, {"user_id": "not counted"}),
        ("/recall", FORCED, {"user_id": "not counted"}),
        ("/recall", {}, {"history": [10001]}),
        ("/recall/batch", {}, {"requests": [{"user_id": "not counted"}], "arm": "recgpt"}),
        ("/embed", {}, {"user_id": "not counted"}),
        ("/recall", {}, {"user_id": "not counted", "top_n": 0}),
    ],
    ids=["pinned", "forced", "no user", "pinned batch", "embed", "refused"],
)
def test_who_does_not_count_is_not_exposed(client, exposures, path, headers, body):
    before = len(exposures())
    client.post(path, json=body, headers=headers)
    # one more than before: the request that `exposures` makes to know the end
    assert len(exposures()) == before + 1
    assert "not counted" not in {exposure.unit for exposure in exposures()}


def test_same_user_on_the_same_day_is_exposed_once(recall, exposures):
    asked = [recall(user_id="twice", top_n=n)["request_id"] for n in (1, 2)]
    assert [exposure.request_id for exposure in exposures() if exposure.request_id in asked] == asked[:1]


def test_exposure_names_variation_and_settings(recall, exposures):
    answer = recall(user_id="named")
    [exposure] = [exposure for exposure in exposures() if exposure.request_id == answer["request_id"]]
    assigned = Assigner.from_file(DEFAULT_FILE, ARMS).assign("named")
    assert (exposure.variation, exposure.config, exposure.phase) == (assigned.variation, assigned.config, "0")


def test_forced_answers_are_kept_apart(client, events, exposures):
    reply = client.post("/recall", json={"user_id": "tester"}, headers=FORCED)
    batch = client.post("/recall/batch", json={"requests": [{"user_id": "tester"}]}, headers=FORCED).json()
    exposures()
    forced = [Exposure.from_json(fields[b"e"]) for _, fields in events.xrange(FORCED_STREAM)]
    asked = {reply.json()["request_id"], batch["responses"][0]["request_id"]}
    assert asked <= {answer.request_id for answer in forced}
    assert {answer.reason for answer in forced} == {"forced"}


@pytest.mark.parametrize(
    ("path", "body"), [("/recall/recgpt", {}), ("/recall/batch", {"requests": [{}], "arm": "recgpt"})]
)
def test_forced_variation_beside_a_named_arm_is_refused(client, path, body):
    reply = client.post(path, json=body, headers=FORCED)
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_request")


def test_sampled_lists_are_those_of_the_answers(answers, events, exposures):
    exposures()
    shown = [Shown.from_json(fields[b"e"]) for _, fields in events.xrange(SHOWN)]
    listed = {answer["request_id"]: (tuple(answer["items"]), tuple(answer["scores"])) for answer in answers}
    ours = [event for event in shown if event.request_id in listed]
    assert all(listed[event.request_id] == (event.items, event.scores) for event in ours)
    assert 5 < len(ours) < 75  # a tenth of 300
