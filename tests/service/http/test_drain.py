"""A service that is told to end: /ready says so first, requests are answered until the port closes, then it ends."""

import httpx
import pytest

from tests.waiting import wait_for

LIMIT_S, NUM_LOOKS = 60, 4


@pytest.fixture(scope="module")
def drained(launch, arm_options):
    """The answers before SIGTERM, those after it, and the exit status after a second one; a drain of a minute."""
    with launch(*arm_options, "--redis-url", "memory", "--drain-s", "60") as served:
        with httpx.Client(base_url=served.url, timeout=LIMIT_S) as client:
            before = client.get("/ready")
            served.process.terminate()
            # the signal takes its time
            wait_for(lambda: client.get("/ready").status_code != 200)
            body = {"history": [10_001]}
            looks = [(client.get("/ready"), client.post("/recall", json=body)) for _ in range(NUM_LOOKS)]
            served.process.terminate()
        return before, looks, served.process.wait(LIMIT_S)


def test_ready_says_that_it_stops_before_the_port_closes(drained):
    before, looks, _ = drained
    assert (before.status_code, before.json()["degraded"]) == (200, [])
    for ready, _ in looks:
        assert (ready.status_code, ready.json()["ready"], ready.json()["degraded"]) == (503, False, ["stopping"])


def test_everything_is_answered_meanwhile_and_connections_are_given_up(drained):
    _, looks, _ = drained
    assert {answer.status_code for _, answer in looks} == {200}
    assert looks[-1][1].headers["connection"] == "close"


def test_a_second_signal_ends_the_drain(drained):
    assert drained[2] == 0


def test_it_ends_by_itself(launch, arm_options):
    with launch(*arm_options, "--redis-url", "memory", "--drain-s", "0.5") as served:
        served.process.terminate()
        assert served.process.wait(LIMIT_S) == 0
