"""A service that is told to end: /ready says so first, requests are answered until the port closes, then it ends."""

import time

import httpx
import pytest

DRAIN_S, LIMIT_S = 4, 60


@pytest.fixture(scope="module")
def drained(launch, arm_options):
    """The looks at a service from SIGTERM until its port is closed, and its exit status."""
    looks, deadline = [], time.monotonic() + LIMIT_S
    with launch(*arm_options, "--redis-url", "memory", "--drain-s", str(DRAIN_S)) as served:
        with httpx.Client(base_url=served.url, timeout=LIMIT_S) as client:
            before = client.get("/ready")
            served.process.terminate()
            while time.monotonic() < deadline:
                try:
                    ready, answer = client.get("/ready"), client.post("/recall", json={"history": [10_001]})
                except httpx.HTTPError:
                    break
                looks.append((ready, answer))
                time.sleep(0.05)
        status = served.process.wait(LIMIT_S)
    return before, looks, status


def test_ready_says_that_it_stops_before_the_port_closes(drained):
    before, looks, status = drained
    assert (before.status_code, before.json()["degraded"]) == (200, [])
    stopping = [ready for ready, _ in looks if ready.status_code == 503]
    assert len(stopping) > 3
    assert all((ready.json()["ready"], ready.json()["degraded"]) == (False, ["stopping"]) for ready in stopping)
    assert status == 0


def test_everything_is_answered_meanwhile_and_connections_are_given_up(drained):
    _, looks, _ = drained
    assert {answer.status_code for _, answer in looks} == {200}
    assert looks[-1][1].headers["connection"] == "close"


def test_ctrl_c_and_a_second_signal_close_the_port_at_once(launch, arm_options):
    with launch(*arm_options, "--redis-url", "memory", "--drain-s", "60") as served:
        served.process.terminate()
        while httpx.get(f"{served.url}/ready", timeout=LIMIT_S).status_code != 503:
            time.sleep(0.02)
        served.process.terminate()
        assert served.process.wait(LIMIT_S) == 0
