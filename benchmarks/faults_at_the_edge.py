"""Rows of the fault suite about processes that end, connections, logs and limits of the system."""

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil

from benchmarks.balancer import Balancer
from benchmarks.fault_rows import Outcome, case, failed, load_of
from benchmarks.steady import LAYOUTS
from recall.bench.target import STOP_LIMIT_S, Checkout, serving
from recall.bench.trials import send
from service.access.keys import Scope, new_key

HEADER, MB = b"x-more: " + b"y" * 1000 + b"\r\n", 2**20
SECRET_USER, SECRET_ITEM = "user-7731-of-nobody", 77_310_077


def with_few_descriptors(number: int) -> Checkout:
    """`recall` where a process has so many descriptors at most."""
    return Checkout(("bash", "-c", f'ulimit -n {number}; exec "$@"', "service", sys.executable, "-m", "recall"))


@case(10, "SIGTERM under load, two replicas behind a proxy", "0 dropped; readiness 503 first; exit 0 <= 10 s")
def replaced(bundle: Path) -> Outcome:
    parts, is_good = list[str](), True
    for layout, options in LAYOUTS.items():
        with ExitStack() as stack:
            first, second = (stack.enter_context(serving({"recgpt": bundle}, *options)) for _ in range(2))
            process = psutil.Process(first.pid)
            balancer = stack.enter_context(Balancer(first.port, second.port))
            load = replace(load_of(first, 60, seconds=8), port=balancer.port, connections=16)
            with ThreadPoolExecutor(1) as sender:
                sending = sender.submit(send, load)
                time.sleep(load.warmup_s + 2)
                began = time.monotonic()
                process.terminate()
                status = process.wait(STOP_LIMIT_S)
                took_s = time.monotonic() - began
                measured = sending.result()
            statuses = {replica.port: b" ".join(replica.statuses).decode() for replica in balancer.replicas}
        seen, other = statuses[first.port], statuses[second.port]
        is_good = is_good and not failed(measured) and status == 0 and took_s <= 10 and seen.startswith("200 503")
        parts.append(
            f"{layout}: {measured.statuses}, {measured.lost} lost; /ready {seen}, of the other {other}; "
            f"exit {status} after {took_s:.1f} s"
        )
    return "; ".join(parts), is_good


@case(24, "keys or histories in logs and metrics", "0")
def said_too_much(bundle: Path) -> Outcome:
    """Requests of every kind, good and bad, with a key, a user and an item that must be found nowhere."""
    secret, key = new_key("all", [*Scope])
    body = {"user_id": SECRET_USER, "history": [SECRET_ITEM, 5], "top_n": 3}
    with serving({"recgpt": bundle}, "--api-keys", key.line, "--log-level", "info") as target:
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
def few_descriptors(bundle: Path) -> Outcome:
    few = with_few_descriptors(64)
    with serving({"recgpt": bundle}, "--redis-url", "memory", checkout=few) as target:
        process = psutil.Process(target.pid)
        before = process.num_fds()
        held = list[socket.socket]()
        for _ in range(200):
            with suppress(OSError):
                held.append(socket.create_connection((target.host, target.port), timeout=1))
        time.sleep(2)
        most = process.num_fds()
        for connection in held:
            connection.close()
        time.sleep(2)
        statuses = [
            httpx.post(f"{target.url}/recall", json={"history": [1]}, timeout=30).status_code for _ in range(20)
        ]
        after = process.num_fds()
    text = f"descriptors {before} before, {most} with {len(held)} connections held, {after} afterwards; then {statuses}"
    return text, set(statuses) == {200} and most <= 64 and after <= before + 2


@case(32, "200 MB of headers", "cut off below 1 MB; memory <= +10 MB")
def headers_without_end(bundle: Path) -> Outcome:
    with serving({"recgpt": bundle}, "--redis-url", "memory") as target:
        whole = psutil.Process(target.pid)
        before, taken, answer = whole.memory_info().rss, 0, b""
        with socket.create_connection((target.host, target.port), timeout=30) as connection:
            connection.sendall(b"POST /recall HTTP/1.1\r\nhost: a\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            with suppress(OSError):
                while taken < 200 * MB:
                    taken += connection.send(HEADER * 16)
            with suppress(OSError):
                answer = connection.recv(4096)
        grown = (whole.memory_info().rss - before) / MB
        is_alive = httpx.get(f"{target.url}/health", timeout=30).status_code == 200
    said = answer.split(b"\r\n")[0].decode() or "a reset"
    text = f"closed after {taken / MB:.2f} MB (with what the two sockets hold), by {said}; memory {grown:+.1f} MB"
    return text, taken < MB and grown <= 10 and is_alive
