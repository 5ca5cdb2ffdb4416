"""The endpoint of a GrowthBook server: followed, kept for a start without it, and never in the way of an answer."""

import asyncio
from functools import partial

import httpx
import pytest
from structlog.testing import capture_logs

from service.errors import ConfigurationError
from service.experiments.assignment import Reason
from service.experiments.endpoint import Endpoint
from service.experiments.live import LiveAssigner, pause
from tests.growthbook_server import ARMS, payload, running
from tests.waiting import wait_for


@pytest.fixture
def server():
    with running() as started:
        yield started


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "state" / "experiments.json"


def follow(url, kept):
    endpoint = Endpoint(url, kept)
    return LiveAssigner(partial(endpoint.load, ARMS), endpoint.mark, endpoint.keep, kept.parent / "paused.json")


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
            wait_for(lambda: ask().json()["experiment"]["reason"] == "no_experiment")
        assert (served.state / "experiments.json").read_bytes() == server.body


def test_two_sources_are_refused(run_recall, arm_options, tmp_path):
    given = ("--experiments", tmp_path / "none.json", "--experiments-url", "https://gb.example/api/features/k")
    refused = run_recall("serve", *arm_options, *given)
    assert (refused.status, "not in both" in refused.sentence) == (2, True)


@pytest.mark.parametrize(
    "change",
    [{}, {"status": 500}, {"body": payload(coverage=7)}, {"body": payload(name="renamed")}],
    ids=["as before", "away", "a refused payload", "another payload"],
)
def test_a_paused_experiment_is_stopped_whatever_the_server_says(server, kept, change):
    live = follow(server.url, kept)
    for name, value in change.items():
        setattr(server, name, value)
    pause(kept.parent / "paused.json", "exp", "")
    look(live)
    assert (live.assign("u").reason, live.paused) == (Reason.NO_EXPERIMENT, ["exp"])
    # the next payload does not start it again, nor does a start of the service
    server.status, server.body = 200, payload(name="again")
    look(live)
    assert (live.assign("u").reason, live.refusal) == (Reason.NO_EXPERIMENT, None)
    assert follow(server.url, kept).assign("u").reason is Reason.NO_EXPERIMENT


def test_a_pause_ends_with_its_file_and_with_the_next_phase(server, kept):
    live, paused = follow(server.url, kept), kept.parent / "paused.json"
    for key, phase in (("exp", ""), ("another", "3")):
        pause(paused, key, phase)
    server.body = payload(phase="2")
    look(live)
    assert (live.assign("u").reason, live.paused) == (Reason.EXPERIMENT, ["another", "exp"])
    server.body = payload()
    look(live)
    assert live.assign("u").reason is Reason.NO_EXPERIMENT
    paused.unlink()
    look(live)
    assert (live.assign("u").reason, live.paused) == (Reason.EXPERIMENT, [])


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"paused": 3}', b'{"paused": [{"experiment": "exp"}]}'])
def test_a_pause_that_cannot_be_read_is_told_and_what_is_in_force_stays(server, kept, content):
    live, paused = follow(server.url, kept), kept.parent / "paused.json"
    paused.write_bytes(content)
    look(live)
    assert (live.assign("u").reason, "paused.json cannot be read" in live.refusal) == (Reason.EXPERIMENT, True)
    with pytest.raises(ConfigurationError, match=r"paused\.json cannot be read"):
        follow(server.url, kept)
    paused.unlink()
    look(live)
    assert live.refusal is None
