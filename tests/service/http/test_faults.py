"""A running service whose Redis is killed, absent or full of garbage: every request is answered, none is wrong."""

import json
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import redis

from model.records import History
from service.engine.metadata import find_bundle, load_arm_metadata
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.vector_codec import cache_key
from tests.waiting import wait_for

RATE, LOAD_S = 50, 4
RECOVERY_LIMIT_S = 5
# The cache's own limits are the product's; only the deadline is that of a shared machine.
# No memory before Redis: it would hide what becomes of values there.
OPTIONS = (
    *("--request-timeout-ms", "30000", "--events-timeout-ms", "2000", "--redis-timeout-ms", "50"),
    *("--memory-cache-mb", "0"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Redis that is nobody's child but this test's."""
    with EmbeddedRedis(tmp_path_factory.mktemp("standalone")) as running:
        yield running


@pytest.fixture(scope="module")
def shaken(launch, arm_options, server):
    """A service on that Redis."""
    with launch(*arm_options, *OPTIONS, "--redis-url", server.url) as served:
        yield served


@pytest.fixture(scope="module")
def ask(shaken):
    with httpx.Client(base_url=shaken.url, timeout=60) as client:
        yield client


@pytest.fixture
def alive(server, ask):
    """The Redis, up, and trusted by the service again."""
    server.ensure()
    wait_for(lambda: not ask.get("/ready").json()["degraded"] or knock(ask))
    with redis.Redis(unix_socket_path=str(server._socket)) as client:
        yield client


def knock(ask):
    """Any request lets each link probe its Redis; false, so that the caller looks again."""
    # another history each time: vectors in memory ask no cache
    ask.post("/recall", json={"user_id": "knock", "history": [10_001 + 7 * random.randrange(300) for _ in range(3)]})
    ask.post("/feedback", json={"user_id": "knock", "item_id": 1, "action": "hide"})
    return False


def kill(server):
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: not server.pid)


class Load:
    """An open load: requests go out by the clock, whether or not earlier ones were answered."""

    def __init__(self, url):
        self.replies = []
        self._client = httpx.Client(base_url=url, timeout=60)
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        start = time.monotonic()
        with ThreadPoolExecutor(16) as senders:
            for n in range(RATE * LOAD_S):
                time.sleep(max(0, start + n / RATE - time.monotonic()))
                senders.submit(self._send, {"user_id": n % 40, "history": [10_001 + 7 * (n % 30)], "top_n": 10})

    def _send(self, body):
        try:
            reply = self._client.post("/recall", json=body)
            self.replies.append((reply.status_code, len(reply.json().get("items", ()))))
        except httpx.HTTPError as error:
            self.replies.append((type(error).__name__, 0))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join()
        self._client.close()


def test_no_request_fails_while_redis_dies_and_returns(shaken, server, alive):
    with Load(shaken.url) as load:
        time.sleep(LOAD_S / 4)
        kill(server)
        time.sleep(LOAD_S / 4)
        server.ensure()
    assert len(load.replies) == RATE * LOAD_S
    assert set(load.replies) == {(200, 10)}


def test_cache_hits_again_soon_after_redis_is_back(server, alive, ask):
    kill(server)
    body = {"history": [10_001, 10_008], "top_n": 5}
    assert {ask.post("/recall/recgpt", json=body).json()["cache"] for _ in range(5)} == {"miss"}
    server.ensure()
    wait_for(lambda: ask.post("/recall/recgpt", json=body).json()["cache"] == "hit", RECOVERY_LIMIT_S)


def test_list_is_the_same_with_and_without_redis(server, alive, ask):
    bodies = [{"history": [10_001 + 7 * n], "user_id": n, "top_n": 20} for n in range(20)]
    expected = [ask.post("/recall/comirec", json=body).json()["items"] for body in bodies]
    kill(server)
    assert [ask.post("/recall/comirec", json=body).json()["items"] for body in bodies] == expected


def test_history_that_cannot_be_read_is_flagged(server, alive, ask):
    kill(server)
    answer = ask.post("/recall", json={"user_id": 1}).json()
    assert len(answer["items"]) == 100
    assert answer["degraded"] == ["history_unavailable", "hidden_unavailable", "cold_start"]


def test_event_that_cannot_be_kept_is_never_acknowledged(server, alive, ask):
    kill(server)
    event = {"user_id": "lost?", "item_id": 10_001, "action": "play", "event_id": "lost?"}
    for _ in range(3):
        reply = ask.post("/feedback", json=event)
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert (reply.json()["code"], reply.json()["retryable"]) == ("events_unavailable", True)


def test_acknowledged_event_outlives_redis(server, alive, ask):
    event = {"user_id": "kept", "item_id": 10_015, "action": "play"}
    assert ask.post("/feedback", json=event).status_code == 202
    time.sleep(1.5)  # the append-only file is synced every second
    kill(server)
    server.ensure()
    wait_for(lambda: ask.post("/recall", json={"user_id": "kept"}).json()["degraded"] == [])
    assert 10_015 not in ask.post("/recall/recgpt", json={"user_id": "kept", "top_n": 1000}).json()["items"]


def test_service_is_healthy_and_says_what_it_lacks(server, alive, ask):
    kill(server)
    for _ in range(5):
        ask.post("/recall", json={"user_id": 1})
    health, ready = ask.get("/health"), ask.get("/ready")
    assert (health.status_code, health.json()["status"], ready.status_code) == (200, "ok", 200)
    assert {"redis_cache_down", "redis_history_down"} <= set(ready.json()["degraded"])


GARBAGE = {
    "flipped bit": lambda value: value[:-1] + bytes([value[-1] ^ 1]),
    "other format": lambda value: b"\x80\x04\x95" + value,
    "half": lambda value: value[: len(value) // 2],
    "empty": lambda value: b"",
    "NaN": lambda value: value[:-4] + b"\x00\x00\xc0\x7f",
}


@pytest.fixture(scope="module")
def key_of(bundles):
    """The key under which the vectors of a history, its rows, are kept."""
    release = load_arm_metadata("recgpt", *find_bundle(bundles["recgpt"]), engine=None)
    return lambda *rows: cache_key(release.bundle, release.plan_digest, History(rows))


@pytest.mark.parametrize("name", GARBAGE)
def test_spoiled_cache_value_is_computed_again(alive, ask, key_of, name):
    alive.flushall()
    body = {"history": [10_001, 10_022], "top_n": 10}
    expected = ask.post("/recall/recgpt", json=body).json()
    # its own key: what was asked before may be written only now
    key = key_of(1, 4)
    wait_for(lambda: alive.exists(key))
    alive.set(key, GARBAGE[name](alive.get(key)))
    answer = ask.post("/recall/recgpt", json=body).json()
    assert (answer["cache"], answer["items"], answer["scores"]) == ("miss", expected["items"], expected["scores"])


def test_cache_value_of_another_type_costs_only_a_miss(alive, ask):
    body = {"history": [10_001, 10_029], "top_n": 10}
    alive.flushall()
    expected = ask.post("/recall/recgpt", json=body).json()
    # written a moment later: by then what the test before left to be written is there too
    wait_for(lambda: ask.post("/recall/recgpt", json=body).json()["cache"] == "hit")
    for key in alive.keys("qv:*"):
        alive.delete(key)
        alive.rpush(key, "a list")
    answer = ask.post("/recall/recgpt", json=body).json()
    assert (answer["cache"], answer["items"]) == ("miss", expected["items"])


def test_flushed_redis_is_filled_again(alive, ask):
    body = {"history": [10_001, 10_036]}
    # Values are written after the answer: a flush before that would be followed by the write.
    wait_for(lambda: ask.post("/recall/recgpt", json=body).json()["cache"] == "hit")
    alive.flushall()
    assert ask.post("/recall/recgpt", json=body).json()["cache"] == "miss"
    wait_for(lambda: ask.post("/recall/recgpt", json=body).json()["cache"] == "hit")


def test_frozen_redis_is_a_miss_and_not_a_wait(server, alive, ask):
    os.kill(server.pid, signal.SIGSTOP)
    try:
        answers = [ask.post("/recall", json={"user_id": n, "history": [10_001]}) for n in range(20)]
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert {reply.status_code for reply in answers} == {200}
    assert {reply.json()["cache"] for reply in answers} == {"miss"}


@pytest.fixture(scope="module")
def alone(launch, arm_options):
    """A service whose Redis never was."""
    with launch(*arm_options, *OPTIONS, "--redis-url", "redis://127.0.0.1:9/0") as served:
        yield served


def test_service_starts_and_serves_without_its_redis(alone):
    answer = httpx.post(f"{alone.url}/recall", json={"user_id": 1, "history": [10_001], "top_n": 5}).json()
    assert (len(answer["items"]), answer["degraded"], answer["cache"]) == (5, ["hidden_unavailable"], "miss")
    assert httpx.get(f"{alone.url}/health").json()["status"] == "ok"


def test_event_without_a_redis_is_refused(alone):
    event = {"user_id": 1, "item_id": 1, "action": "play"}
    assert httpx.post(f"{alone.url}/feedback", json=event).status_code == 503


def test_absent_redis_is_logged_once_a_second_at_most(alone):
    for n in range(100):
        httpx.post(f"{alone.url}/recall", json={"user_id": n, "top_n": 1})
    lines = [json.loads(line) for line in alone.log.read_text().splitlines() if line.startswith("{")]
    times = [(line["role"], line["timestamp"][:19]) for line in lines if line["event"] == "redis_failed"]
    assert times
    assert len(times) <= 2 * len(set(times))


def test_stop_with_redis_gone_is_quick_and_clean(launch, arm_options, tmp_path):
    with EmbeddedRedis(tmp_path) as server, launch(*arm_options, *OPTIONS, "--redis-url", server.url) as served:
        httpx.post(f"{served.url}/recall", json={"user_id": 1})
        kill(server)
        httpx.post(f"{served.url}/recall", json={"user_id": 2})
        assert served.stop() == 0


def test_embedded_redis_that_dies_comes_back(service, client, recall, events):
    pid = events.info("server")["process_id"]
    os.kill(pid, signal.SIGKILL)
    assert {*recall(user_id=1, history=[10_001])["degraded"]} <= {"hidden_unavailable"}
    wait_for(lambda: answers(events))
    assert events.info("server")["process_id"] != pid
    wait_for(lambda: not client.get("/ready").json()["degraded"] or knock(client))


def answers(client):
    try:
        return client.ping()
    except redis.exceptions.ConnectionError:
        return False
