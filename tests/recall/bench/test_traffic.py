"""Load and its outcome: shares that add up, percentiles of all latencies, and what counts as held."""

import orjson
import pytest

from recall.bench.traffic import Bodies, Load, Measured, Sample

LOAD = Load(port=1, rate=100, seconds=2, num_items=50, history=4, top_n=10)


def sample(latencies_s=(), statuses=None, due=None, **more):
    statuses = statuses or {"200": len(latencies_s)}
    due = sum(statuses.values()) if due is None else due
    return Sample(
        latencies_s=latencies_s, lags_s=[0.0], statuses=statuses, due=due, cpu_s=1.0, received_bytes=5, **more
    )


def body_of(data):
    head, _, body = data.partition(b"\r\n\r\n")
    return head.decode(), orjson.loads(body)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shares_of_a_load_add_up_and_ask_differently(count):
    shares = LOAD.shares(count)
    assert sum(share.rate for share in shares) == pytest.approx(LOAD.rate)
    assert len({share.seed for share in shares}) == count
    assert all(share.connections >= 1 for share in Load(port=1, connections=2).shares(count))


def test_percentiles_are_those_of_all_latencies_not_means():
    measured = Measured.of(LOAD, [sample([0.001] * 99), sample([0.1])])
    assert measured.p50_ms == 1
    assert measured.max_ms == 100
    assert measured.completed == 50


def test_nothing_answered_takes_for_ever():
    measured = Measured.of(LOAD, [sample([], {"503": 4})])
    assert measured.p99_ms == float("inf")
    assert not measured.holds(1e9)


def test_what_was_due_and_not_answered_is_lost():
    measured = Measured.of(LOAD, [sample([0.01] * 3, due=5)])
    assert measured.lost == 2
    assert not measured.holds(1000)


@pytest.mark.parametrize(
    ("latencies_s", "statuses", "held"),
    [
        ([0.010] * 1000, {"200": 1000}, True),
        ([0.040] * 1000, {"200": 1000}, False),
        ([0.010] * 1999, {"200": 1999, "429": 1}, True),
        ([0.010] * 99, {"200": 99, "429": 1}, False),
    ],
)
def test_a_rate_holds_where_nearly_all_are_answered_in_time(latencies_s, statuses, held):
    assert Measured.of(LOAD, [sample(latencies_s, statuses)]).holds(30) is held


def test_goodput_is_the_share_within_the_deadline_of_all_that_was_due():
    assert Measured.of(LOAD, [sample([0.05, 0.05, 0.2], {"200": 3, "504": 1})]).goodput == 0.5


def test_a_request_is_whole_and_its_length_right():
    data = Bodies(LOAD).next()
    (head, body), num_bytes = body_of(data), len(data.partition(b"\r\n\r\n")[2])
    assert head.startswith("POST /recall HTTP/1.1\r\nhost: 127.0.0.1\r\n")
    assert head.endswith(f"content-length: {num_bytes}")
    assert len(body["history"]) == 4
    assert body["top_n"] == 10


def test_a_batch_has_its_users_and_its_arm():
    _, body = body_of(Bodies(Load(port=1, users_a_request=3, arm="recgpt", history=2)).next())
    assert [len(member["history"]) for member in body["requests"]] == [2, 2, 2]
    assert body["arm"] == "recgpt"


def test_further_headers_are_sent():
    head, _ = body_of(Bodies(Load(port=1, accept="application/msgpack", headers={"x-priority": "low"})).next())
    assert "\r\naccept: application/msgpack\r\n" in head
    assert "\r\nx-priority: low\r\n" in head


def test_the_same_seed_asks_the_same_and_another_does_not():
    first, second, other = (Bodies(Load(port=1, seed=seed)).next() for seed in (1, 1, 2))
    assert first == second != other


def test_few_different_histories_are_asked_in_turn():
    bodies = Bodies(Load(port=1, distinct=3))
    asked = [bodies.next() for _ in range(6)]
    assert len({*asked}) == 3
    assert asked[:3] == asked[3:]
