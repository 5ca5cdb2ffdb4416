"""The endpoint of a GrowthBook server: followed, kept for a start without it, and never in the way of an answer."""

import asyncio
import json
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from structlog.testing import capture_logs

from service.errors import ConfigurationError
from service.experiments.assignment import Reason
from service.experiments.endpoint import Endpoint
from service.experiments.live import LiveAssigner

ARMS = ("comirec", "recgpt")
PATH = "/api/features/sdk-secret"


def payload(**changes):
    rule = {"key": "exp", "hashAttribute": "user_id", "hashVersion": 2, "bucketVersion": 1, "variations": [*ARMS]}
    feature = {"defaultValue": "comirec", "rules": [rule | changes]}
    return json.dumps({"status": 200, "features": {"recall_arm": feature}, "dateUpdated": "2026-11-28"}).encode()


class GrowthBookServer(ThreadingHTTPServer):
    """A server that gives what `body` holds, with an ETag, or the status that is set."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.status, self.num_sent = payload(), 200, 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}{PATH}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        etag = f'"{hash(self.server.body)}"'
        is_known = self.headers.get("If-None-Match") == etag
        status = 404 if self.path != PATH else 304 if is_known and self.server.status == 200 else self.server.status
        self.send_response(status)
        self.send_header("ETag", etag)
        self.end_headers()
        if status == 200:
            self.server.num_sent += 1
            self.wfile.write(self.server.body)

    def log_message(self, *_):
        """Says nothing."""


@contextmanager
def running():
    with GrowthBookServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server():
    with running() as started:
        yield started


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "state" / "experiments.json"


def follow(url, kept):
    endpoint = Endpoint(url, kept)
    return LiveAssigner(partial(endpoint.load, ARMS), endpoint.mark, endpoint.keep)


def look(live):
    asyncio.run(live.look())


def test_a_change_at_the_server_is_taken_and_the_same_is_sent_once(server, kept):
    live = follow(server.url, kept)
    for _ in range(3):
        look(live)
    assert (server.num_sent, live.assign("u").reason, live.results) == (1, Reason.EXPERIMENT, {})
    server.body = payload(active=False)
    look(live)
    assert (live.assign("u").reason, live.results) == (Reason.NO_EXPERIMENT, {"swapped": 1})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"coverage": 7}, "coverage 7"), ({"seed": "another"}, "exp")],
    ids=["unsound", "moves users"],
)
def test_a_refused_payload_leaves_the_old_in_force_and_the_kept_one_alone(server, kept, change, sentence):
    live = follow(server.url, kept)
    server.body = payload(**change)
    look(live)
    assert (live.assign("u").reason, sentence in live.refusal) == (Reason.EXPERIMENT, True)
    assert kept.read_bytes() == payload()


@pytest.mark.parametrize("status", [500, 403])
def test_a_server_that_does_not_tell_is_said_once_until_it_does(server, kept, status):
    live = follow(server.url, kept)
    server.status = status
    for _ in range(3):
        look(live)
    assert (live.refusal, live.results) == (
        f"the experiments of 127.0.0.1 cannot be read: status {status}",
        {"refused": 1},
    )
    server.status = 200
    look(live)
    assert (live.refusal, live.assign("u").reason) == (None, Reason.EXPERIMENT)


def test_a_start_without_the_server_takes_the_kept_payload(kept):
    with running() as server:
        url, config = server.url, follow(server.url, kept).config
    with capture_logs() as logged:
        live = follow(url, kept)
    assert (live.config, logged[0]["event"]) == (config, "experiments_from_before")
    look(live)
    assert "refused" in live.refusal.lower()
    assert "secret" not in f"{live.refusal} {logged}"


def test_a_start_without_the_server_and_without_a_kept_payload_is_refused(server, kept):
    server.status = 500
    with pytest.raises(ConfigurationError, match="status 500, and none are kept from before"):
        follow(server.url, kept)


@pytest.mark.parametrize("body", [b"", b"{", b'{"encryptedFeatures": "x"}', b'{"features": {"recall_arm": 1}}'])
def test_another_answer_than_features_is_refused(server, kept, body):
    server.body = body
    with pytest.raises(ConfigurationError, match=r"the experiments of 127\.0\.0\.1"):
        follow(server.url, kept)


def test_a_service_follows_the_endpoint_in_every_process(server, launch, arm_options):
    options = ("--experiments-url", server.url, "--watch-experiments-s", "0.2", "--http-workers", "1")
    with launch(*arm_options, *options, "--request-timeout-ms", "30000") as served:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            ask = partial(client.post, "/recall", json={"user_id": "u", "history": [10_001], "top_n": 1})
            assert ask().json()["experiment"]["key"] == "exp"
            server.body = payload(active=False)
            for _ in range(600):
                if ask().json()["experiment"]["reason"] == "no_experiment":
                    break
                threading.Event().wait(0.1)
            assert ask().json()["experiment"]["reason"] == "no_experiment"
        assert (served.state / "experiments.json").read_bytes() == server.body


def test_two_sources_are_refused(run_recall, arm_options, tmp_path):
    given = ("--experiments", tmp_path / "none.json", "--experiments-url", "https://gb.example/api/features/k")
    refused = run_recall("serve", *arm_options, *given)
    assert (refused.status, "not in both" in refused.sentence) == (2, True)
