"""Rows of the fault suite about single requests: cold starts, lists of odd lengths, huge bodies, and torn HTTP."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from benchmarks.fault_rows import NUM_ITEMS, PATIENT, Outcome, case, failed, in_both, load_of
from recall.bench.target import Target, serving
from recall.bench.trials import send

COLD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown user": ({"user_id": "nobody-yet"}, ["cold_start"]),
    "unknown items": ({"history": [10**9, 10**9 + 1]}, ["unknown_items", "cold_start"]),
    "an empty history": ({"history": []}, ["cold_start"]),
    "nothing": ({}, ["cold_start"]),
}
# of a head; what stands behind it would be a second request to whoever reads the length otherwise
SMUGGLED = b"GET /version HTTP/1.1\r\nhost: a\r\n\r\n"
TORN = {
    "a length and chunks": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": b"content-length: 2\r\ncontent-length: 30\r\n\r\n{}" + SMUGGLED,
    "a bare line feed in a value": b"x-ab-bucket: recgpt\n x-evil: 1\r\ncontent-length: 2\r\n\r\n{}",
    "a carriage return in a value": b"x-ab-bucket: recgpt\rx-evil: 1\r\ncontent-length: 2\r\n\r\n{}",
    "a header of 1 MB": b"x-long: " + b"v" * 2**20 + b"\r\ncontent-length: 2\r\n\r\n{}",
}
LENGTHS = {0: {422}, -1: {422}, 10**9: {422}, 2**63: {400, 422}, NUM_ITEMS: {200, 422}}
CHUNKS, ABUSE_S = 3 * (b"8000\r\n" + b"x" * 0x8000 + b"\r\n"), 4.0  # and no last one


@contextmanager
def asking(bundle: Path, *options: str) -> Iterator[httpx.Client]:
    """A client of a service that is patient."""
    with (
        serving({"recgpt": bundle}, *PATIENT, *options) as target,
        httpx.Client(base_url=target.url, timeout=60) as client,
    ):
        yield client


@case(16, "unknown user, unknown items, empty history", "200, flagged, a whole list")
@in_both
def cold_starts(bundle: Path, *options: str) -> Outcome:
    told, is_good = dict[str, object](), True
    with asking(bundle, *options) as client:
        for name, (body, expected) in COLD.items():
            reply = client.post("/recall/recgpt", json=body | {"top_n": 10})
            answer = reply.json()
            told[name] = f"{reply.status_code} {answer.get('degraded')}"
            is_good = is_good and (reply.status_code, answer.get("degraded")) == (200, expected)
            is_good = is_good and len(answer.get("items", ())) == 10
    return f"{told}", is_good


@case(19, "top_n 0, -1, 1e9, 2^63, the whole catalogue", "422, or clamped as documented")
@in_both
def odd_lengths(bundle: Path, *options: str) -> Outcome:
    told, is_good = dict[int, int](), True
    with asking(bundle, *options) as client:
        for top_n, allowed in LENGTHS.items():
            reply = client.post("/recall/recgpt", json={"history": [1], "top_n": top_n})
            told[top_n] = reply.status_code
            is_good = is_good and reply.status_code in allowed
    return f"statuses {told}", is_good


@case(21, "CL+TE, duplicate CL, bare LF and CR in the bucket header, 1 MB header", "400 or 431; nothing injected")
@in_both
def torn_http(bundle: Path, *options: str) -> Outcome:
    told, is_good = dict[str, str](), True
    with serving({"recgpt": bundle}, "--log-level", "info", *PATIENT, *options) as target:
        for name, rest in TORN.items():
            answer = exchange(target, b"POST /recall/recgpt HTTP/1.1\r\nhost: a\r\n" + rest)
            statuses = [line[9:12].decode() for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
            told[name] = " ".join(statuses) or "a reset"
            # one refusal, or the end of the connection: what was smuggled is never answered
            is_good = is_good and (statuses in (["400"], ["431"]) or not statuses) and b"x-evil" not in answer
        text = target.log.read_text(errors="replace") if target.log else ""
        is_alive = httpx.get(f"{target.url}/health", timeout=30).status_code == 200
    injected = text.count("x-evil")
    return f"{told}; {injected} lines of log hold what was injected", is_good and is_alive and not injected


def exchange(target: Target, request: bytes) -> bytes:
    """All that comes back until the connection ends, or nothing more comes for a second."""
    answer = b""
    with socket.create_connection((target.host, target.port), timeout=1) as connection, suppress(OSError):
        # a refusal may come, and the connection end, before all is sent
        with suppress(OSError):
            connection.sendall(request)
        while part := connection.recv(65536):
            answer += part
    return answer


@case(18, "a history of 1e6 items, bodies of 100 MB, endless chunks", "413 after <= 64 KiB; others' p99 <= 1.2x")
@in_both
def huge_bodies(bundle: Path, *options: str) -> Outcome:
    """The load before, and the same load while clients send such bodies one after the other."""
    statuses, is_over = Counter[str](), threading.Event()
    long = json.dumps({"history": list(range(1, 1_000_001))}).encode()
    with serving({"recgpt": bundle}, *options) as target, httpx.Client(base_url=target.url, timeout=30) as client:
        load = load_of(target, 60, seconds=ABUSE_S, warmup_s=2)
        before = send(load)
        repeated = client.post("/recall/recgpt", json={"history": [5] * 20 + [6], "top_n": 5}).status_code

        def abuse() -> None:
            while not is_over.is_set():
                for head, body in (
                    (b"content-length: %d" % len(long), long),
                    (b"content-length: 100000000", b"x" * 2**17),
                ):
                    statuses[status_of(target, head, body)] += 1
                statuses[status_of(target, b"transfer-encoding: chunked", CHUNKS)] += 1
                time.sleep(0.05)

        with ThreadPoolExecutor(1) as sender:
            abusing = sender.submit(abuse)
            during = send(load)
            is_over.set()
            abusing.result()
    share = during.p99_ms / before.p99_ms
    text = (
        f"{dict(statuses)} for {statuses.total()} such bodies, equal items in a history {repeated}; "
        f"{failed(during)} others failed, p99 {during.p99_ms:.1f} ms, before {before.p99_ms:.1f} ms ({share:.2f}x)"
    )
    return text, {*statuses} <= {"413", "429", "a reset"} and bool(statuses["413"]) and not failed(
        during
    ) and share <= 1.2


def status_of(target: Target, head: bytes, body: bytes) -> str:
    """The status of the answer to a body that may not come to its end."""
    answer = exchange(target, b"POST /recall/recgpt HTTP/1.1\r\nhost: a\r\n%s\r\n\r\n%s" % (head, body))
    return answer[9:12].decode() or "a reset"
