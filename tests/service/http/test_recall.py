"""POST /recall, /recall/{arm}, /recall/batch and /feedback of a running service: what a good request gets."""

import re
import time
from itertools import groupby, pairwise
from pathlib import Path

import orjson
import ormsgpack
import pytest

PACKED = "application/msgpack"
ARMS = pytest.mark.parametrize("arm", ["recgpt", "comirec"])
KEYS = {"request_id", "bundle", "arm", "experiment", "items", "scores", "catalogue", "cache", "degraded", "timings_ms"}


def test_answer_has_its_columns_and_no_more(recall, known):
    answer = recall(user_id=1, history=known[:5], top_n=10)
    assert answer.keys() == KEYS
    assert len(answer["items"]) == len(answer["scores"]) == 10
    assert answer["experiment"].keys() == {"key", "assigned", "served", "reason"}


def test_headers_name_experiment_and_bucket(client):
    reply = client.post("/recall", json={"user_id": 1})
    assert reply.headers["X-AB-Experiment"] == "recgpt-vs-comirec"
    assert reply.headers["X-AB-Bucket"] in {"control", "recgpt"}


def test_every_answer_has_a_request_id_of_its_own(recall):
    assert recall(user_id=1)["request_id"] != recall(user_id=1)["request_id"]


@ARMS
@pytest.mark.parametrize("top_n", [1, 10, 100])
def test_top_n_different_unseen_items_of_the_catalogue(recall, known, arm, top_n):
    history, exclude = known[3:40], known[100:130]
    items = recall(f"/recall/{arm}", history=history, exclude=exclude, top_n=top_n)["items"]
    assert len(items) == len(set(items)) == top_n
    assert set(items) <= set(known) - set(history) - set(exclude)


def test_whole_history_is_left_out_and_not_only_the_window(recall, known):
    answer = recall("/recall/recgpt", history=known[:200], top_n=100)
    assert set(answer["items"]) == set(known[200:])


@ARMS
def test_scores_fall_within_a_source(recall, known, arm):
    answer = recall(f"/recall/{arm}", history=known[:7], top_n=50, explain=True)
    by_source = sorted(zip(answer["sources"], answer["scores"], strict=True), key=lambda pair: pair[0])
    for _, pairs in groupby(by_source, key=lambda pair: pair[0]):
        assert all(before[1] >= after[1] for before, after in pairwise(pairs))


def test_recgpt_explains_its_steps_by_the_quotas_of_its_plan(recall, known):
    answer = recall("/recall/recgpt", history=known[:7], top_n=10, explain=True)
    assert answer["sources"] == ["step1"] * 7 + ["step2"] * 3
    assert len(answer["prompts"]) == 1
    assert answer["prompts"][0] in known


def test_comirec_explains_its_interests_and_generates_nothing(recall, known):
    answer = recall("/recall/comirec", history=known[:7], top_n=100, explain=True)
    assert set(answer["sources"]) <= {f"interest{n}" for n in (1, 2, 3, 4)}
    assert len(set(answer["sources"])) > 1
    assert answer["prompts"] == []


@ARMS
def test_arm_of_the_path_answers_outside_any_experiment(client, arm):
    reply = client.post(f"/recall/{arm}", json={"user_id": 1})
    answer = reply.json()
    assert answer["arm"] == arm
    assert answer["experiment"] == {"key": None, "assigned": arm, "served": arm, "reason": "pinned"}
    assert not [name for name in reply.headers if name.startswith("x-ab-")]


@ARMS
def test_second_identical_request_is_a_hit_with_the_same_list(recall, known, events, arm):
    body = {"history": known[50:61], "top_n": 20}
    num_kept = len(events.keys("qv:*"))
    first = recall(f"/recall/{arm}", **body)
    while len(events.keys("qv:*")) == num_kept:  # written after the answer
        time.sleep(0.005)
    second = recall(f"/recall/{arm}", **body)
    assert (first["cache"], second["cache"]) == ("miss", "hit")
    assert (first["items"], first["scores"]) == (second["items"], second["scores"])


def test_hit_serves_another_length_and_other_exclusions(recall, known):
    history = known[70:75]
    whole = recall("/recall/comirec", history=history, top_n=30)["items"]
    assert recall("/recall/comirec", history=history, top_n=10)["items"] == whole[:10]
    assert recall("/recall/comirec", history=history, top_n=10, exclude=whole[:5])["items"] == whole[5:15]


@ARMS
def test_longer_list_than_the_catalogue_is_every_unseen_item(recall, known, arm):
    answer = recall(f"/recall/{arm}", history=known[:4], exclude=known[4:6], top_n=1000)
    assert sorted(answer["items"]) == known[6:]
    assert answer["degraded"] == []


@ARMS
def test_empty_history_is_a_flagged_cold_start(recall, arm):
    answer = recall(f"/recall/{arm}", history=[], top_n=10)
    assert len(answer["items"]) == 10
    assert answer["degraded"] == ["cold_start"]


def test_unknown_items_are_left_out_and_flagged(recall, known):
    mixed, plain = (recall("/recall/recgpt", history=h) for h in ([known[0], -1, 2**63 - 1, "x"], [known[0]]))
    assert mixed["degraded"] == ["unknown_items"]
    assert mixed["items"] == plain["items"]


def test_only_unknown_items_are_a_cold_start(recall):
    assert recall("/recall/recgpt", history=[1, 2])["degraded"] == ["unknown_items", "cold_start"]


def test_feedback_is_the_history_of_a_request_without_one(client, recall, known):
    for item in known[20:23]:
        event = {"user_id": "kept", "item_id": item, "action": "play"}
        assert client.post("/feedback", json=event).status_code == 202
    answer = recall("/recall/comirec", user_id="kept", top_n=1000)
    assert sorted(answer["items"]) == known[:20] + known[23:]
    assert answer["items"] == recall("/recall/comirec", history=known[20:23], top_n=1000)["items"]


def test_history_sent_is_taken_in_place_of_the_one_kept(client, recall, known):
    client.post("/feedback", json={"user_id": "both", "item_id": known[9], "action": "like"})
    answer = recall("/recall/comirec", user_id="both", history=known[:1], top_n=1000)
    assert known[9] in answer["items"]


def test_hidden_item_is_no_history(client, recall, known):
    client.post("/feedback", json={"user_id": "hider", "item_id": known[9], "action": "hide"})
    assert recall("/recall/comirec", user_id="hider")["degraded"] == ["cold_start"]


def test_same_event_twice_is_one_event(client):
    event = {"user_id": "u", "item_id": 1, "action": "play", "event_id": "once"}
    first, second = (client.post("/feedback", json=event).json() for _ in range(2))
    assert first == {"event_id": "once", "duplicate": False}
    assert second == {"event_id": "once", "duplicate": True}


@pytest.mark.parametrize("user", [503, "ü007", -(2**63), "a b/c?&=%"])
def test_any_id_of_a_user_has_an_arm_and_keeps_it(recall, user):
    answers = [recall(user_id=user, history=[]) for _ in range(2)]
    assert answers[0]["experiment"] == answers[1]["experiment"]
    assert answers[0]["experiment"]["reason"] == "experiment"


def test_known_user_is_more_than_an_unknown_one(recall, known, tiny):
    user = tiny.catalogue.users.ids.tolist()[0]
    named, nameless = (recall("/recall/recgpt", history=known[:3], **who) for who in ({"user_id": user}, {}))
    assert named["scores"] != nameless["scores"]


def test_string_ids_come_back_as_strings(recall):
    answer = recall("/recall/words", history=["clip-001", "clip-002"], user_id="ü001", top_n=20)
    assert all(isinstance(item, str) for item in answer["items"])
    assert not {"clip-001", "clip-002"} & set(answer["items"])
    assert answer["degraded"] == []


def test_a_number_in_a_string_is_that_number(recall, known):
    answers = [recall("/recall/recgpt", history=[form(known[0])], top_n=5) for form in (int, str)]
    assert answers[0]["items"] == answers[1]["items"]
    assert answers[1]["degraded"] == []


def test_batch_keeps_the_order(recall, known):
    requests = [{"history": known[n : n + 3], "top_n": 5} for n in range(40)]
    batch = recall("/recall/batch", requests=requests, arm="recgpt")["responses"]
    assert [answer["items"] for answer in batch] == [recall("/recall/recgpt", **body)["items"] for body in requests]


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("answers", [True, False])
def test_a_packed_batch_is_the_same_batch(client, known, asks, answers):
    body = {"requests": [{"history": known[:3], "top_n": 5, "explain": True}, {"history": [1], "top_n": 0}]}
    body["arm"] = "comirec"
    expected = client.post("/recall/batch", json=body).json()["responses"]
    content = ormsgpack.packb(body) if asks else orjson.dumps(body)
    headers = {"content-type": PACKED if asks else "application/json", "accept": PACKED if answers else "*/*"}
    reply = client.post("/recall/batch", content=content, headers=headers)
    assert reply.headers["content-type"] == (PACKED if answers else "application/json")
    answers_read = (ormsgpack.unpackb if answers else orjson.loads)(reply.content)["responses"]
    assert answers_read[0]["items"] == expected[0]["items"]
    assert answers_read[0]["scores"] == pytest.approx(expected[0]["scores"], rel=1e-6)
    assert answers_read[1]["code"] == expected[1]["code"] == "bad_request"


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x81\xa8requests", b"\x91" * 5000, ormsgpack.packb([1, 2])])
def test_what_is_no_packed_batch_is_refused(client, content):
    reply = client.post("/recall/batch", content=content, headers={"content-type": PACKED})
    assert reply.status_code in (400, 422)
    assert reply.json()["code"] in ("malformed_body", "bad_request")


def test_bad_member_of_a_batch_gets_its_own_problem(recall):
    bodies = [{"top_n": 2}, {"top_n": 0}, {"colour": 1}, {"history": [True]}, {"top_n": 3}]
    answers = recall("/recall/batch", requests=bodies)["responses"]
    outcomes = [answer.get("code", "good") for answer in answers]
    assert outcomes == ["good", "bad_request", "bad_request", "bad_request", "good"]
    assert len({answer["request_id"] for answer in answers}) == 5


def test_batch_without_an_arm_is_assigned_user_by_user(recall):
    users = list(range(20))
    batch = recall("/recall/batch", requests=[{"user_id": user} for user in users])["responses"]
    assert [answer["experiment"] for answer in batch] == [recall(user_id=user)["experiment"] for user in users]


@ARMS
def test_embed_gives_the_vectors_of_the_arm(recall, known, arm):
    answer = recall("/embed", history=known[:3], arm=arm)
    assert (answer["arm"], len(answer["vectors"])) == (arm, {"recgpt": 2, "comirec": 4}[arm])
    assert all(len(vector) == 16 for vector in answer["vectors"])


def test_arms_says_what_is_served(client, recall):
    arms = client.get("/arms").json()["arms"]
    assert list(arms) == ["recgpt", "comirec", "words"]
    assert arms["recgpt"]["bundle"] == recall("/recall/recgpt")["bundle"]
    assert arms["recgpt"]["plan"]["quotas"] == [7, 3]


def test_health_and_readiness_are_good(client):
    names = ["recgpt", "comirec", "words"]
    assert client.get("/health").json() == {"status": "ok", "engines": dict.fromkeys(names, "ok")}
    state = client.get("/ready").json()
    assert (state["experiments"].pop("config") != "", state.pop("experiments")) == (
        True,
        {"refused": None, "paused": []},
    )
    assert state == {"ready": True, "failing": {}, "arms": names, "degraded": [], "refused": {}}


def test_log_and_metrics_hold_no_id_of_a_user_or_an_item(client, recall, service):
    recall(user_id="very-private-user", history=["very-private-item"])
    recall("/recall/batch", requests=[{"user_id": "very-private-user"}])
    written = service.log.read_text() + client.get("/metrics").text
    assert "very-private" not in written


def test_the_reference_has_every_metric_of_a_running_service(client):
    page = (Path(__file__).parents[3] / "docs" / "reference.md").read_text()
    names = re.findall(r"^# HELP (recall_\w+)", client.get("/metrics").text, re.MULTILINE)
    assert len(names) > 20
    # the client library adds the time at which each counter began
    names = [name for name in names if not name.endswith("_created")]
    assert [name for name in names if f"| `{name}` |" not in page] == []
