"""Rows of the fault suite about too many requests, their priorities and their deadlines."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.fault_rows import Outcome, case, failed, good, in_both, load_of, peak, send_and_probe
from recall.bench.target import Target, serving
from recall.bench.trials import send

OVERLOAD_CRITERION = (
    "goodput >= 90 % of peak; 429 or 503 only; rejects p99 <= 20 ms; /health <= 100 ms at 5x; memory <= +10 %"
)


@case(7, "overload 2x, 5x, 10x", OVERLOAD_CRITERION)
def overload(bundle: Path) -> Outcome:
    return overloaded(bundle)


@case(31, "overload 2x, 5x, 10x with 2 HTTP processes", OVERLOAD_CRITERION)
def overload_of_processes(bundle: Path) -> Outcome:
    return overloaded(bundle, "--http-workers", "2")


def overloaded(bundle: Path, *options: str) -> Outcome:
    parts, is_good = list[str](), True
    with serving({"recgpt": bundle}, *options) as target:
        (rate, reached), memory = peak(target), target.memory_mb
        for factor in (2, 5, 10):
            # one after the other: the machine is not the same a minute later
            base = load_of(target, rate, warmup_s=2)
            before = good(send(base), base)
            load = load_of(target, factor * before, warmup_s=2)
            spent = target.usage()
            measured, health_ms = send_and_probe(target, load)
            spent = {part: seconds - spent.get(part, 0.0) for part, seconds in target.usage().items()}
            share, other = good(measured, load) / before, failed(measured)
            cpu = ", ".join(f"{part} {seconds / (load.seconds + load.warmup_s):.0%}" for part, seconds in spent.items())
            parts.append(
                f"{factor}x ({load.rate:.0f}/s): {good(measured, load):.0f}/s good, just before at {rate:.0f}/s "
                f"{before:.0f} ({share:.0%}), rejects p99 {measured.refused_p99_ms:.0f} ms "
                f"({measured.refused_sent_p99_ms:.0f} from when they were sent), {other} other failures, "
                f"/health {health_ms:.0f} ms (median), sent late p99 {measured.lag_p99_ms:.0f} ms, of a core: {cpu}"
            )
            is_good = is_good and share >= 0.9 and measured.refused_p99_ms <= 20 and not other
            is_good = is_good and (factor > 5 or health_ms <= 100)
        growth = target.memory_mb / memory - 1
    return f"peak {reached:.0f}/s at {rate:.0f}/s; {'; '.join(parts)}; memory {growth:+.1%}", is_good and growth <= 0.1


@case(8, "priority at 3x", "high priority answered >= 99.4 %")
@in_both
def priorities(bundle: Path, *options: str) -> Outcome:
    with serving({"recgpt": bundle}, *options) as target:
        _, highest = peak(target)
        normal = load_of(target, 2.6 * highest, seconds=5, warmup_s=2)
        high = load_of(target, 0.4 * highest, seconds=5, warmup_s=2, headers={"x-priority": "high"}, seed=7)
        with ThreadPoolExecutor(2) as senders:
            outcomes = list(senders.map(send, (normal, high)))
    shares = [each.statuses.get("200", 0) / (sum(each.statuses.values()) + each.lost) for each in outcomes]
    text = f"peak {highest:.0f}/s; answered: normal {shares[0]:.1%} of 2.6x, high {shares[1]:.2%} of 0.4x"
    return text, shares[1] >= 0.994


@case(9, "deadline of 5 ms; callers who leave", "504 within budget + 20 ms, or labelled; nothing left under way")
@in_both
def deadlines(bundle: Path, *options: str) -> Outcome:
    with serving({"recgpt": bundle}, *options) as target:
        load = load_of(target, 100, seconds=4, headers={"x-request-timeout-ms": "5"})
        measured = send(load)
        leave(target, 200)
        time.sleep(2)
        text = httpx.get(f"{target.url}/metrics", timeout=30).text
    under_way = sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("recall_under_way_weight"))
    late = max(measured.refused_p99_ms, measured.p99_ms)
    said = f"{measured.statuses}, p99 {measured.p99_ms:.0f} ms of answers, {measured.refused_p99_ms:.0f} ms of 504"
    return f"{said}; 200 callers left, weight still under way {under_way:.0f}", late <= 25 and not under_way


def leave(target: Target, count: int) -> None:
    """Asks and closes the connection at once, so many times."""
    body = json.dumps({"history": list(range(1, 40))}).encode()
    head = b"POST /recall HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    for _ in range(count):
        with socket.create_connection((target.host, target.port), timeout=10) as connection:
            connection.sendall(head + body)
