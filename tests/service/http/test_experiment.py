"""The experiment over HTTP: the same arms as offline, for ever, and exposures of those who count and of nobody else."""

import time

import pytest

from service.experiments.assignment import DEFAULT_FILE, Assigner
from service.experiments.exposure import STREAM, Exposure

ARMS = ("recgpt", "comirec", "words")
USERS = [*range(150), *(f"user-{n}" for n in range(150))]
FORCED = {"X-AB-Bucket": "recgpt", "X-QA-Key": "only-for-tests"}
WRITE_LIMIT_S = 20


@pytest.fixture
def exposures(events, recall):
    """All exposures written, once one that was made just now has arrived: the log keeps the order."""

    def read() -> list[Exposure]:
        last = recall(user_id="the last one")["request_id"]
        deadline = time.monotonic() + WRITE_LIMIT_S
        while time.monotonic() < deadline:
            written = [Exposure.from_json(fields[b"e"]) for _, fields in events.xrange(STREAM)]
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
    written = {exposure.request_id for exposure in exposures()}
    assert {answer["request_id"] for answer in answers} <= written


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


def test_same_user_on_the_same_day_has_one_exposure_id(recall, exposures):
    asked = {recall(user_id="twice", top_n=n)["request_id"] for n in (1, 2)}
    written = [exposure for exposure in exposures() if exposure.request_id in asked]
    assert len(written) == 2
    assert len({exposure.id for exposure in written}) == 1
