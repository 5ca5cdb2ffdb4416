"""Overload, priorities, deadlines and callers who leave, against a real service with a gate that closes early."""

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import orjson
import ormsgpack
import pytest
from httpx import Headers

from recall.bench.target import Target
from recall.bench.traffic import Load
from recall.bench.trials import send
from service.http.protocol import refusal

LIMIT_S = 60
RATES = (600.0, 1_500.0, 3_000.0, 6_000.0)  # requests/s
# a gate that closes at the first wait; the engine's own patience is that of a shared machine
STRAINED = ("--target-wait-ms", "0.01", "--request-timeout-ms", "30000", "--engine-stall-ms", "60000")
BODY = {"history": [10_001 + 7 * n for n in range(20)], "top_n": 10}


@pytest.fixture(scope="module")
def strained(launch, arm_options):
    with launch(*arm_options, *STRAINED, "--redis-url", "memory") as served:
        yield served


@pytest.fixture(scope="module")
def ask(strained):
    with httpx.Client(base_url=strained.url, timeout=60) as client:
        yield client


def metric(client, name):
    """The sum of a metric over its labels."""
    values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(map(float, values))


@pytest.fixture(scope="module")
def flooded(strained, ask):
    """The outcome of more requests than are answered in time, sent from a process of its own.

    How many are too many is the machine's matter: the rate rises until some are refused.
    """
    where = {"port": Target(strained.url).port, "path": "/recall/recgpt"}
    # late answers are not lost ones
    load = Load(**where, seconds=1.5, history=20, top_n=10, drain_s=LIMIT_S)
    event = {"user_id": 1, "item_id": 10_001, "action": "play"}
    with ThreadPoolExecutor(1) as sender:
        for rate in RATES:
            sending = sender.submit(send, replace(load, rate=rate, warmup_s=0.5))
            time.sleep(1)
            beside = [ask.get("/health").status_code, ask.post("/feedback", json=event).status_code]
            measured = sending.result()
            if "429" in measured.statuses:
                break
    return measured, beside


def test_what_is_too_much_is_refused_and_the_rest_answered(flooded, ask):
    measured, _ = flooded
    # how many are answered is the machine's matter; that the others are told so at once is the gate's
    assert "429" in measured.statuses
    assert measured.statuses.keys() <= {"200", "429"}
    assert measured.lost == 0
    assert metric(ask, "recall_refused_total") >= measured.statuses["429"]


def test_nothing_of_a_flood_is_left(flooded, ask):
    assert ask.post("/recall", json=BODY).status_code == 200
    assert metric(ask, "recall_under_way_weight") == 0


def test_health_and_events_pass_no_gate(flooded):
    assert flooded[1] == [200, 202]


@pytest.mark.parametrize("keeps_open", [True, False])
def test_a_refusal_is_an_answer_like_any_other(keeps_open):
    head, _, body = refusal(keeps_open).partition(b"\r\n\r\n")
    headers = Headers([tuple(line.split(b": ")) for line in head.split(b"\r\n")[1:]])
    assert (headers["retry-after"], headers.get("connection")) == ("1", None if keeps_open else "close")
    assert int(headers["content-length"]) == len(body)
    problem = orjson.loads(body)
    assert (problem["code"], problem["retryable"], problem["request_id"]) == ("overloaded", True, None)


@pytest.mark.parametrize("path", ["/recall", "/recall/recgpt", "/embed"])
def test_unknown_priority_is_refused(ask, path):
    reply = ask.post(path, json={}, headers={"X-Priority": "urgent"})
    assert (reply.status_code, reply.json()["message"]) == (422, "X-Priority: one of high, normal, low")


@pytest.mark.parametrize("priority", ["high", "normal", "low", "High"])
def test_priorities_have_names(ask, priority):
    assert ask.post("/recall", json=BODY, headers={"X-Priority": priority}).status_code == 200


@pytest.mark.parametrize("timeout_ms", ["1", "3", "10"])
def test_short_deadline_is_answered_by_something_labelled_or_by_504(ask, timeout_ms):
    for number in range(10):
        body = {"history": [10_001 + 7 * (20 * int(timeout_ms) + number)], "top_n": 10}
        reply = ask.post("/recall/recgpt", json=body, headers={"X-Request-Timeout-Ms": timeout_ms})
        assert reply.status_code in (200, 504)
        if reply.status_code == 200:
            answer = reply.json()
            assert len(answer["items"]) == 10
            assert ("fallback" in answer["degraded"]) == (answer["experiment"]["served"] == "fallback")
        else:
            assert (reply.json()["code"], reply.headers["retry-after"]) == ("deadline_exceeded", "1")


def test_pipelined_requests_pass_the_gate_too(strained, ask):
    where = urlsplit(strained.url)
    before = metric(ask, "recall_admitted_total")
    request = b'POST /recall/comirec HTTP/1.1\r\nhost: a\r\ncontent-length: 12\r\n\r\n{"top_n": 3}'
    with socket.create_connection((where.hostname, where.port), timeout=LIMIT_S) as connection:
        connection.sendall(3 * request)
        answer = b""
        while answer.count(b"HTTP/1.1 200") < 3:
            answer += connection.recv(65536)
    assert metric(ask, "recall_admitted_total") == before + 3


def test_who_leaves_is_counted_and_leaves_nothing_behind(strained, ask):
    where = urlsplit(strained.url)
    before = metric(ask, "recall_admitted_total")
    request = b"POST /recall HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"
    for _ in range(20):
        # a body that has not come to its end: its request is under way for certain
        with socket.create_connection((where.hostname, where.port), timeout=LIMIT_S) as connection:
            connection.sendall(request + b"{")
    deadline = time.monotonic() + LIMIT_S
    while metric(ask, "recall_under_way_weight"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert metric(ask, "recall_admitted_total") > before
    assert 'status="499"' in ask.get("/metrics").text


def test_batch_keeps_its_order_and_its_shape_in_both_formats(ask):
    requests = [{"history": [10_001 + 7 * n], "top_n": 3} for n in range(40)] + [{"top_n": 0}]
    body = {"requests": requests, "arm": "comirec"}
    plain = ask.post("/recall/batch", json=body).json()["responses"]
    alone = [ask.post("/recall/comirec", json=request) for request in requests]
    assert [answer.get("items") for answer in plain] == [reply.json().get("items") for reply in alone]
    assert plain[-1]["code"] == "bad_request"


def test_batch_in_messagepack_is_the_one_in_json(ask):
    body = {"requests": [{"history": [10_001 + 7 * n], "top_n": 3} for n in range(20)], "arm": "comirec"}
    plain = ask.post("/recall/batch", json=body).json()["responses"]
    packed = ask.post("/recall/batch", json=body, headers={"Accept": "application/msgpack"})
    assert packed.headers["content-type"] == "application/msgpack"
    assert [m["items"] for m in ormsgpack.unpackb(packed.content)["responses"]] == [m["items"] for m in plain]
