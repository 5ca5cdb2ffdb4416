"""Rows of the fault suite about what a client may send: ids, keys, heads, connections; and what is said of it."""

import json
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from benchmarks.fault_rows import Outcome, case, in_both, load_of, of_kind
from benchmarks.steady import processes_of
from recall.bench.target import Checkout, Target, serving
from recall.bench.trials import send
from service.access.keys import PREFIX, Scope, new_key
from service.http.protocol import RECEIVE_S

HEADER, MB = b"x-more: " + b"y" * 1000 + b"\r\n", 2**20
SECRET_USER, SECRET_ITEM = "user-7731-of-nobody", 77_310_077


@case(17, "odd ids and bodies", "400, 413 or 422; replies <= 4 KB")
@in_both
def odd_ids(bundle: Path, *options: str) -> Outcome:
    ids = [
        b"9223372036854775808",
        b"1" + b"0" * 5000,
        b"true",
        b"1.0",
        b"NaN",
        b"Infinity",
        rb'"\ud800"',
        b'"\xff"',
        b"[1]",
    ]
    bodies = [b'{"user_id": %s}' % each for each in ids] + [b'{"history": [%s]}' % each for each in ids]
    bodies += [b"[" * 60_000, b"", b"null", b'{"colour": 1}']
    with serving({"recgpt": bundle}, *options) as target, httpx.Client(base_url=target.url) as client:
        replies = [client.post("/recall", content=body, timeout=30) for body in bodies]
    statuses, largest = Counter(reply.status_code for reply in replies), max(len(reply.content) for reply in replies)
    return f"statuses {dict(statuses)}, largest reply {largest} bytes", {*statuses} <= {
        400,
        413,
        422,
    } and largest <= 4096


@case(20, "2,000 sockets that drip", "all closed <= 10 s; others' p99 <= 1.5x")
@in_both
def drips(bundle: Path, *options: str) -> Outcome:
    with serving({"recgpt": bundle}, *options) as target:
        before = send(load_of(target, 60, seconds=3))
        sockets = [socket.create_connection((target.host, target.port), timeout=30) for _ in range(2000)]
        began = time.monotonic()
        for connection in sockets:
            connection.sendall(b"POST /recall HTTP/1.1\r\nhost: a\r\n")
        during = send(load_of(target, 60, seconds=3))
        for connection in sockets:
            with connection:
                while connection.recv(4096):
                    pass
        closed_s = time.monotonic() - began
    text = f"closed after {closed_s:.1f} s (limit {RECEIVE_S} s from the connection on); p99 {during.p99_ms:.0f} ms, "
    is_good = closed_s <= 10 and during.p99_ms <= 1.5 * before.p99_ms
    return f"{text}before {before.p99_ms:.0f} ms", is_good


@case(23, "no key, wrong key, key elsewhere, missing scope; a key's rate", "401 or 403 in constant time; 429 a key")
@in_both
def keys(bundle: Path, *options: str) -> Outcome:
    """The routes are walked over by tests/service/http/test_api_keys.py; here a few, and the time of a refusal."""
    made = {name: new_key(name, [name], 50 if name == "feedback" else None) for name in Scope}
    right, wrong = made[Scope.RECALL][0], PREFIX + "A" * 43
    text = ";".join(key.line for _, key in made.values())
    with (
        serving({"recgpt": bundle}, "--api-keys", text, *options) as target,
        httpx.Client(base_url=target.url, timeout=30) as client,
    ):

        def ask(path: str = "/recall", key: str | None = None, **headers: str) -> httpx.Response:
            bearing = {} if key is None else {"Authorization": f"Bearer {key}"}
            return client.post(path, json={}, headers=bearing | headers)

        refused = [
            (401, ask()),
            (401, ask("/recall?key=" + right)),
            (401, ask(**{"X-API-Key": right, "X-Admin-Key": right})),
            (403, ask(key=wrong)),
            (403, ask("/admin/reload", right)),
            (403, ask(key=right, **{"X-AB-Bucket": "recgpt"})),
        ]
        # a key whose beginning is right, and one of which nothing is: in turns
        tried, times_us = (right[:30] + "x" * (len(right) - 30), wrong), (list[float](), list[float]())
        for number in range(2000):
            began = time.perf_counter()
            ask(key=tried[number % 2])
            times_us[number % 2].append(1e6 * (time.perf_counter() - began))
        is_good = ask(key=right).status_code == 200
        sent = Counter(ask("/feedback", made[Scope.FEEDBACK][0]).status_code for _ in range(200))
    medians = [statistics.median(times) for times in times_us]
    statuses = [reply.status_code for _, reply in refused]
    measured = (
        f"statuses {statuses}; a refusal takes {medians[0]:.0f} us where the key begins right, "
        f"{medians[1]:.0f} us where nothing is; of 200 at once with a key of 50/s {sent[429]} got 429"
    )
    is_constant = abs(medians[0] - medians[1]) < 0.05 * medians[1]
    return measured, is_good and is_constant and statuses == [status for status, _ in refused] and sent[429] > 50


def with_few_descriptors(number: int) -> Checkout:
    """`recall` where a process has so many descriptors at most."""
    return Checkout(("bash", "-c", f'ulimit -n {number}; exec "$@"', "service", sys.executable, "-m", "recall"))


@case(24, "keys or histories in logs and metrics", "0")
@in_both
def said_too_much(bundle: Path, *options: str) -> Outcome:
    """Requests of every kind, good and bad, with a key, a user and an item that must be found nowhere."""
    secret, key = new_key("all", [*Scope])
    body = {"user_id": SECRET_USER, "history": [SECRET_ITEM, 5], "top_n": 3}
    with serving({"recgpt": bundle}, "--api-keys", key.line, "--log-level", "info", *options) as target:
        bearing = {"Authorization": f"Bearer {secret}"}
        with httpx.Client(base_url=target.url, timeout=30) as client:
            for path in ("/recall", "/recall/recgpt", "/embed", "/recall/nobody"):
                for wrong in ({}, {"top_n": -1}, {"colour": SECRET_USER}, {"history": [SECRET_USER, None]}):
                    client.post(path, json=body | wrong, headers=bearing)
                client.post(path, json=body)
                client.post(f"{path}?key={secret}", json=body, headers={"Authorization": secret})
            event = {"user_id": SECRET_USER, "item_id": SECRET_ITEM, "action": "play"}
            client.post("/feedback", json=event, headers=bearing)
            client.post("/feedback", json=event | {"action": SECRET_USER}, headers=bearing)
            client.post("/recall/batch", json={"requests": [body, {"history": secret}]}, headers=bearing)
            client.post("/recall", content=json.dumps(body)[:-3], headers=bearing)
            metrics = client.get("/metrics", headers=bearing).text
        text = target.log.read_text(errors="replace") if target.log else ""
    words = {"the key": secret, "the user": SECRET_USER, "the item": str(SECRET_ITEM)}
    counted = {name: text.count(word) + metrics.count(word) for name, word in words.items()}
    lines = text.count("\n")
    return f"{counted} times in {lines} lines of log and in the metrics", not any(counted.values()) and lines > 20


@case(25, "64 descriptors: 200 connections and more", "refused while there are too many; all answered afterwards")
@in_both
def few_descriptors(bundle: Path, *options: str) -> Outcome:
    few = with_few_descriptors(64)
    with serving({"recgpt": bundle}, *options, checkout=few) as target:
        processes = of_kind(target, "http") or [psutil.Process(target.pid)]
        before = open_descriptors(processes)
        held = list[socket.socket]()
        for _ in range(200 * len(processes)):
            with suppress(OSError):
                held.append(socket.create_connection((target.host, target.port), timeout=1))
        time.sleep(2)
        most = open_descriptors(processes)
        for connection in held:
            connection.close()
        time.sleep(2)
        statuses = [
            httpx.post(f"{target.url}/recall", json={"history": [1]}, timeout=30).status_code for _ in range(20)
        ]
        after = open_descriptors(processes)
    text = f"descriptors {before} before, {most} with {len(held)} connections held, {after} afterwards; then {statuses}"
    return text, set(statuses) == {200} and most <= 64 and after <= before + 2


def open_descriptors(processes: Sequence[psutil.Process]) -> int:
    """The descriptors of the process that has most."""
    return max(process.num_fds() for process in processes)


def resident_bytes(target: Target) -> int:
    return sum(int(process.memory_info().rss) for process in processes_of(target))


@case(32, "200 MB of headers", "cut off below 1 MB; memory <= +10 MB")
@in_both
def headers_without_end(bundle: Path, *options: str) -> Outcome:
    with serving({"recgpt": bundle}, *options) as target:
        before, taken, answer = resident_bytes(target), 0, b""
        with socket.create_connection((target.host, target.port), timeout=30) as connection:
            connection.sendall(b"POST /recall HTTP/1.1\r\nhost: a\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            with suppress(OSError):
                while taken < 200 * MB:
                    taken += connection.send(HEADER * 16)
            with suppress(OSError):
                answer = connection.recv(4096)
        grown = (resident_bytes(target) - before) / MB
        is_alive = httpx.get(f"{target.url}/health", timeout=30).status_code == 200
    said = answer.split(b"\r\n")[0].decode() or "a reset"
    text = f"closed after {taken / MB:.2f} MB (with what the two sockets hold), by {said}; memory {grown:+.1f} MB"
    return text, taken < MB and grown <= 10 and is_alive
