"""Rows of the fault suite about threads and processes that hang or end."""

import os
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.balancer import Balancer
from benchmarks.fault_rows import Outcome, case, failed, in_both, load_of, of_kind
from benchmarks.hanging import SWITCH
from benchmarks.steady import LAYOUTS
from recall.bench.target import STOP_LIMIT_S, Checkout, Target, is_listening, serving
from recall.bench.trials import send


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


@case(
    11, "engine thread hangs, then dies", "labelled fallback or 503; /ready red with the reason <= 2 s; back by itself"
)
@in_both
def lost_thread(bundle: Path, *options: str) -> Outcome:
    parts, is_good = list[str](), True
    with tempfile.TemporaryDirectory() as folder:
        switch = Path(folder) / "wish"
        os.environ[SWITCH] = str(switch)
        command = Checkout(command=(sys.executable, "-m", "benchmarks.hanging"))
        with serving({"recgpt": bundle}, *options, checkout=command) as target:
            for number, wish in enumerate(("hang", "die")):
                switch.write_text(wish)
                began = time.monotonic()
                asking = threading.Thread(target=ask_new, args=(target, number))
                asking.start()
                red_s = wait_for_ready(target, 503, began)
                answer = ask_new(target, 10 + number)
                switch.unlink()
                back_s = wait_for_ready(target, 200, time.monotonic())
                asking.join()
                whole = ask_new(target, 20 + number)
                is_good = is_good and red_s <= 2 and answer["served"] == "fallback" and whole["served"] == "recgpt"
                parts.append(
                    f"{wish}: red after {red_s:.1f} s, answered by {answer['served']}, back after {back_s:.1f} s"
                )
    return "; ".join(parts), is_good


def ask_new(target: Target, number: int) -> dict[str, Any]:
    body = {"history": [100 + 7 * number, 101 + 7 * number], "top_n": 5}
    reply = httpx.post(f"{target.url}/recall/recgpt", json=body, timeout=30)
    answer: dict[str, Any] = reply.json()
    # a refusal has no experiment
    experiment: dict[str, Any] = answer.get("experiment", {"served": answer.get("code")})
    return experiment


def wait_for_ready(target: Target, status: int, since: float) -> float:
    """Seconds until /ready has this status; 60 where it never has."""
    while time.monotonic() - since < 60:
        if httpx.get(f"{target.url}/ready", timeout=30).status_code == status:
            return time.monotonic() - since
        time.sleep(0.02)
    return 60.0


SETTLE_S = 3.0


@case(
    30, "processes of --http-workers killed or stopped", "back <= 30 s; only retryable failures; no redis-server left"
)
def split_processes(bundle: Path) -> Outcome:
    parts, is_good = list[str](), True
    with serving({"recgpt": bundle}, "--http-workers", "2") as target:
        redis = [child for child in psutil.Process(target.pid).children(recursive=True) if "redis" in child.name()]
        # a process that ends before all are ready is a refusal to start, and /ready is answered by the first of them
        time.sleep(SETTLE_S)
        for kind in ("http", "engine"):
            for number in (signal.SIGKILL, signal.SIGSTOP):
                chosen = of_kind(target, kind)[0]
                began = time.monotonic()
                chosen.send_signal(number)
                while chosen.is_running() and chosen.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.02)
                while not answers_whole(target):
                    time.sleep(0.05)
                back_s = time.monotonic() - began
                is_good = is_good and back_s <= 30
                parts.append(f"{kind} {number.name}: whole again after {back_s:.1f} s")
        os.kill(target.pid or 0, signal.SIGTERM)
        gone, left = psutil.wait_procs(redis, timeout=20)
    return f"{'; '.join(parts)}; redis-servers left {len(left)} of {len(gone) + len(left)}", is_good and not left


def answers_whole(target: Target) -> bool:
    """True where every one of several requests, on connections of their own, gets a whole answer."""
    if sum(map(is_listening, of_kind(target, "http"))) < 2 or not of_kind(target, "engine"):
        return False
    try:
        replies = [httpx.post(f"{target.url}/recall/recgpt", json={"history": [1]}, timeout=30) for _ in range(6)]
    except httpx.HTTPError:
        return False
    return all(reply.status_code == 200 and reply.json()["degraded"] == [] for reply in replies)
