"""Feedback over HTTP: batches, what cannot have been, and hidden items that no arm shows again."""

import time

import pytest

DAY_MS = 86_400_000


def now_ms():
    return int(time.time() * 1e3)


@pytest.mark.parametrize("arm", ["recgpt", "comirec", None])
@pytest.mark.parametrize("history", [{}, {"history": [10001]}], ids=["kept", "sent"])
def test_a_hidden_item_is_gone_at_once_in_every_arm(client, recall, arm, history):
    user, path = f"hides in {arm} {len(history)}", f"/recall/{arm}" if arm else "/recall"
    before = recall(path, user_id=user, top_n=5, **history)["items"]
    event = {"user_id": user, "item_id": before[0], "action": "hide"}
    assert client.post("/feedback", json=event).status_code == 202
    after = recall(path, user_id=user, top_n=5, **history)
    assert before[0] not in after["items"]
    assert (len(after["items"]), "hidden_unavailable" in after["degraded"]) == (5, False)
    assert before[0] in recall(path, user_id="another", top_n=300, **history)["items"]


def test_a_batch_is_kept_in_order_and_a_bad_event_answers_for_itself(client, recall):
    moment = now_ms()
    events = [
        {"user_id": "batch", "item_id": 10001, "action": "play", "ts_ms": moment},
        {"user_id": "batch", "item_id": 10008, "action": "stare"},
        {"user_id": "batch", "item_id": 10015, "action": "like", "ts_ms": moment},
        {"user_id": "batch", "item_id": 10001, "action": "play", "ts_ms": moment},
    ]
    reply = client.post("/feedback/batch", json={"events": events})
    assert reply.status_code == 202
    first, second, third, fourth = reply.json()["responses"]
    assert (first["duplicate"], third["duplicate"], fourth) == (False, False, first | {"duplicate": True})
    assert (second["code"], second["retryable"]) == ("bad_request", False)
    assert not {10001, 10015} & {*recall(user_id="batch", top_n=300)["items"]}


@pytest.mark.parametrize("events", [[], [{}] * 257], ids=["none", "too many"])
def test_a_batch_has_bounds(client, events):
    assert client.post("/feedback/batch", json={"events": events}).status_code == 422


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"ts_ms": 0}, "ts_ms: more than 7 days ago"),
        ({"ts_ms": now_ms() // 1000}, "it is milliseconds"),
        ({"ts_ms": now_ms() - 8 * DAY_MS}, "ts_ms: more than 7 days ago"),
        ({"ts_ms": now_ms() + DAY_MS}, "ts_ms: in the future"),
        ({"watch_time_ms": 60_000_000, "duration_ms": 10_000}, "more than 100 times duration_ms"),
        ({"watch_time_ms": 1, "duration_ms": 0}, "more than 100 times duration_ms"),
    ],
)
def test_what_cannot_have_been_is_refused_with_a_sentence(client, more, sentence):
    event = {"user_id": "liar", "item_id": 10001, "action": "play"} | more
    reply = client.post("/feedback", json=event)
    assert reply.status_code == 422
    assert sentence in reply.json()["message"]


@pytest.mark.parametrize("more", [{}, {"ts_ms": now_ms() - DAY_MS}, {"watch_time_ms": 9000, "duration_ms": 3000}])
def test_what_can_have_been_is_kept(client, more):
    event = {"user_id": "honest", "item_id": 10001, "action": "play"} | more
    assert client.post("/feedback", json=event).status_code == 202
