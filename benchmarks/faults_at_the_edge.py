"""Rows of the fault suite about processes that end, connections, logs and limits of the system."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil

from benchmarks.balancer import Balancer
from benchmarks.fault_rows import Outcome, case, failed, load_of
from benchmarks.steady import LAYOUTS
from recall.bench.target import Target, free_port, wait_ready
from recall.bench.trials import send
from service.access.keys import Scope, new_key

STOP_LIMIT_S = 60.0
HEADER, MB = b"x-more: " + b"y" * 1000 + b"\r\n", 2**20
SECRET_USER, SECRET_ITEM = "user-7731-of-nobody", 77_310_077


@contextmanager
def started(bundle: Path, *options: str, shell: str = "") -> Iterator[tuple[Target, "subprocess.Popen[bytes]", Path]]:
    """(service, its process, its log); shell: what the shell does before it becomes the service."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "recall", "serve", "--arm", f"recgpt={bundle}", "--port", str(port)]
        command += ["--state-dir", folder, *options]
        log = Path(folder) / "log"
        with log.open("wb") as sink:
            words = ["bash", "-c", f'{shell}exec "$@"', "service", *command]
            process = subprocess.Popen(words, stdout=sink, stderr=sink)
            try:
                wait_ready(f"http://127.0.0.1:{port}", process, log)
                yield Target(f"http://127.0.0.1:{port}", process.pid), process, log
            finally:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGINT)
                process.wait(STOP_LIMIT_S)


@case(10, "SIGTERM under load, two replicas behind a proxy", "0 dropped; readiness 503 first; exit 0 <= 10 s")
def replaced(bundle: Path) -> Outcome:
    parts, is_good = list[str](), True
    for layout, options in LAYOUTS.items():
        with ExitStack() as stack:
            services = [stack.enter_context(started(bundle, *options)) for _ in range(2)]
            (first, process, _), (second, *_) = services
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


@case(24, "keys or histories in logs, metrics, traces", "0")
def said_too_much(bundle: Path) -> Outcome:
    """Requests of every kind, good and bad, with a key, a user and an item that must be found nowhere."""
    secret, key = new_key("all", [*Scope])
    body = {"user_id": SECRET_USER, "history": [SECRET_ITEM, 5], "top_n": 3}
    with started(bundle, "--api-keys", key.line, "--log-level", "info") as (target, _, log):
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
        text = log.read_text(errors="replace")
    words = {"the key": secret, "the user": SECRET_USER, "the item": str(SECRET_ITEM)}
    counted = {name: text.count(word) + metrics.count(word) for name, word in words.items()}
    lines = text.count("\n")
    return f"{counted} times in {lines} lines of log and in the metrics", not any(counted.values()) and lines > 20


@case(25, "64 descriptors: 200 connections and more", "refused while there are too many; all answered afterwards")
def few_descriptors(bundle: Path) -> Outcome:
    with started(bundle, "--redis-url", "memory", shell="ulimit -n 64; ") as (target, process, _):
        before = psutil.Process(process.pid).num_fds()
        held = list[socket.socket]()
        for _ in range(200):
            with suppress(OSError):
                held.append(socket.create_connection((target.host, target.port), timeout=1))
        time.sleep(2)
        most = psutil.Process(process.pid).num_fds()
        for connection in held:
            connection.close()
        time.sleep(2)
        statuses = [
            httpx.post(f"{target.url}/recall", json={"history": [1]}, timeout=30).status_code for _ in range(20)
        ]
        after = psutil.Process(process.pid).num_fds()
    text = f"descriptors {before} before, {most} with {len(held)} connections held, {after} afterwards; then {statuses}"
    return text, set(statuses) == {200} and most <= 64 and after <= before + 2


@case(32, "200 MB of headers", "cut off below 1 MB; memory <= +10 MB")
def headers_without_end(bundle: Path) -> Outcome:
    with started(bundle, "--redis-url", "memory") as (target, process, _):
        whole = psutil.Process(process.pid)
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
