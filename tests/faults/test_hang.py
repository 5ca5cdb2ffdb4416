"""An engine thread that hangs or dies in a real service: fallbacks, a red /ready with the reason, and back again."""

import os
import signal
import sys
import time

import httpx
import psutil
import pytest

from benchmarks.hanging import SWITCH
from recall.bench.target import Checkout, serving

LIMIT_S = 60
# a request may wait for a fallback longer than a shared machine needs to notice
OPTIONS = ("--redis-url", "memory", "--request-timeout-ms", "30000")


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    return tmp_path_factory.mktemp("switch") / "wish"


@pytest.fixture(scope="module")
def sick(bundles, switch):
    command = Checkout(command=(sys.executable, "-m", "benchmarks.hanging"))
    os.environ[SWITCH] = str(switch)
    try:
        with serving({"recgpt": bundles["recgpt"]}, *OPTIONS, checkout=command) as target:
            yield target
    finally:
        del os.environ[SWITCH]


def ask(target, *history):
    reply = httpx.post(f"{target.url}/recall/recgpt", json={"history": history, "top_n": 5}, timeout=LIMIT_S)
    assert reply.status_code == 200, reply.text
    return reply.json()


def ready(target):
    reply = httpx.get(f"{target.url}/ready", timeout=LIMIT_S)
    return reply.status_code, reply.json()["failing"]


@pytest.mark.parametrize(("wish", "reason"), [("hang", "hangs: one batch for more than 1.25 s"), ("die", "died")])
def test_a_lost_thread_is_answered_by_the_fallback_said_and_replaced(sick, switch, known, wish, reason):
    offset = 5 * len(wish)  # a history that nobody has asked for: it has to be encoded
    whole = ask(sick, *known[offset : offset + 3])
    switch.write_text(wish)
    answer = ask(sick, *known[offset + 3 : offset + 9])
    assert (answer["experiment"]["served"], "fallback" in answer["degraded"]) == ("fallback", True)
    status, failing = ready(sick)
    assert status == 503
    assert reason in failing["recgpt"]
    assert httpx.get(f"{sick.url}/health", timeout=LIMIT_S).status_code == 503
    # nobody else waits for the thread
    assert ask(sick, *known[:2])["experiment"]["served"] == "fallback"
    switch.unlink()
    deadline = time.monotonic() + LIMIT_S
    while ready(sick) != (200, {}):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ask(sick, *known[offset : offset + 3])["items"] == whole["items"]


def test_a_thread_that_hangs_holds_no_stopping_service(sick, switch, known):
    switch.write_text("hang")
    ask(sick, *known[40:47])
    process = psutil.Process(sick.pid)
    process.send_signal(signal.SIGTERM)
    psutil.wait_procs([process], timeout=LIMIT_S)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
