"""Fault and abuse tests against real service processes, each with its criterion: `make faults`.

    python -m benchmarks.faults --output benchmarks/results/faults.json --only 1 2 7

Rows: id, name, criterion, measured (figures in words), passed (true, false; null = not measured, `measured` says why).
Rows that are not run are kept as they stand in the file. "Failed" is no reply, a 5xx or a wrong answer. Rates are those
of a shared machine: what is compared is measured in the same run, one after the other.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

import benchmarks.faults_at_the_edge  # noqa: F401  (its rows)
from benchmarks.fault_proxy import Fault, FaultProxy
from benchmarks.fault_rows import CASES, NUM_ITEMS, Case, Outcome, case, failed, good, load_of, peak, send_and_probe
from benchmarks.hanging import SWITCH
from benchmarks.steady import where_and_when
from recall.bench.bundles import Sizes, make_bundle
from recall.bench.stages import scrape
from recall.bench.target import Checkout, Target, children_running, is_listening, serving
from recall.bench.traffic import Load, Measured
from recall.bench.trials import send
from service.access.keys import PREFIX, Scope, new_key
from service.http.protocol import RECEIVE_S
from service.stores.embedded_redis import EmbeddedRedis


@contextmanager
def with_redis(bundle: Path, *options: str) -> Iterator[tuple[Target, EmbeddedRedis]]:
    """A service on a Redis that is not its child; no memory before it, so that Redis is asked."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder)) as redis:
        given = ("--redis-url", redis.url, "--memory-cache-mb", "0", *options)
        with serving({"recgpt": bundle}, *given) as target:
            yield target, redis


def while_loaded(load: Load, act: Callable[[], None]) -> Measured:
    """The outcome of a load during which something happens, a second after its warm-up."""
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(send, load)
        time.sleep(load.warmup_s + 1.5)
        act()
        return sending.result()


REDIS_CRITERION = "0 failed; p99 <= 2x; cached again within 5 s"


def redis_case(bundle: Path, hurt: Callable[[EmbeddedRedis], None], heal: Callable[[EmbeddedRedis], None]) -> Outcome:
    with with_redis(bundle) as (target, redis):
        before = send(load_of(target, 60))

        def act() -> None:
            hurt(redis)
            time.sleep(2)
            heal(redis)

        during = while_loaded(load_of(target, 60, seconds=6), act)
        healed = time.monotonic()
        body = {"history": [1, 2, 3], "top_n": 5}
        while httpx.post(f"{target.url}/recall/recgpt", json=body, timeout=30).json()["cache"] != "hit":
            if time.monotonic() - healed > 30:
                break
            time.sleep(0.05)
        back_s = time.monotonic() - healed
    text = (
        f"{failed(during)} failed of {sum(during.statuses.values()) + during.lost}; p99 {during.p99_ms:.0f} ms, "
        f"before {before.p99_ms:.0f} ms; a hit {back_s:.1f} s after the load"
    )
    return text, not failed(during) and during.p99_ms <= 2 * before.p99_ms and back_s <= 5


@case(1, "Redis killed in mid-load", REDIS_CRITERION)
def redis_killed(bundle: Path) -> Outcome:
    return redis_case(bundle, lambda redis: os.kill(redis.pid, signal.SIGKILL), lambda redis: redis.start())


@case(2, "Redis frozen", REDIS_CRITERION)
def redis_frozen(bundle: Path) -> Outcome:
    return redis_case(
        bundle, lambda redis: os.kill(redis.pid, signal.SIGSTOP), lambda redis: os.kill(redis.pid, signal.SIGCONT)
    )


@case(3, "Redis slow, sliced to single bytes, reset, cut in mid-reply, silent", "0 failed; 0 wrong lists")
def redis_spoilt(bundle: Path) -> Outcome:
    bodies = [{"history": [n, n + 1, n + 2], "top_n": 20} for n in range(1, 101)]
    counted: dict[str, str] = {}
    is_good = True
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder)) as redis,
        FaultProxy(redis.url.removeprefix("unix://")) as proxy,
        serving({"recgpt": bundle}, "--redis-url", proxy.url, "--memory-cache-mb", "0") as target,
        httpx.Client(base_url=target.url, timeout=30) as client,
    ):
        expected = [client.post("/recall/recgpt", json=body).json()["items"] for body in bodies]
        for fault in Fault:
            proxy.set(fault)
            with ThreadPoolExecutor(8) as callers:
                replies = list(callers.map(lambda body: client.post("/recall/recgpt", json=body), bodies * 3))
            lists = [reply.json().get("items") for reply in replies]
            wrong = sum(items != known for items, known in zip(lists, expected * 3, strict=True))
            is_good = is_good and not wrong
            counted[fault.value] = f"{wrong} of {len(lists)}"
    return f"not 200 or another list, by fault: {counted}; replies spoilt: {proxy.num_spoilt}", is_good


@case(6, "stampede: 1,000 requests for one new history", "<= 2 computations; all 200")
def stampede(bundle: Path) -> Outcome:
    with serving({"recgpt": bundle}, "--request-timeout-ms", "10000") as target:
        before = tokens_of(target)
        measured = send(load_of(target, 1000, seconds=1, warmup_s=0.0, distinct=1, history=10, connections=1000))
        computed = (tokens_of(target) - before) / 10
    total = sum(measured.statuses.values()) + measured.lost
    text = f"{measured.statuses} of {total}; {computed:.0f} computations"
    return text, measured.statuses == {"200": total} and computed <= 2


def tokens_of(target: Target) -> float:
    """Items encoded so far."""
    samples = scrape(target.url)
    return sum(
        n for (name, labels), n in samples.items() if name == "recall_tokens_total" and ("kind", "item") in labels
    )


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
                f"{before:.0f} ({share:.0%}), rejects p99 {measured.refused_p99_ms:.0f} ms, {other} other failures, "
                f"/health {health_ms:.0f} ms (median), sent late p99 {measured.lag_p99_ms:.0f} ms, of a core: {cpu}"
            )
            is_good = is_good and share >= 0.9 and measured.refused_p99_ms <= 20 and not other
            is_good = is_good and (factor > 5 or health_ms <= 100)
        growth = target.memory_mb / memory - 1
    return f"peak {reached:.0f}/s at {rate:.0f}/s; {'; '.join(parts)}; memory {growth:+.1%}", is_good and growth <= 0.1


@case(8, "priority at 3x", "high priority answered >= 99.4 %")
def priorities(bundle: Path) -> Outcome:
    with serving({"recgpt": bundle}) as target:
        _, highest = peak(target)
        normal = load_of(target, 2.6 * highest, seconds=5, warmup_s=2)
        high = load_of(target, 0.4 * highest, seconds=5, warmup_s=2, headers={"x-priority": "high"}, seed=7)
        with ThreadPoolExecutor(2) as senders:
            outcomes = list(senders.map(send, (normal, high)))
    shares = [each.statuses.get("200", 0) / (sum(each.statuses.values()) + each.lost) for each in outcomes]
    text = f"peak {highest:.0f}/s; answered: normal {shares[0]:.1%} of 2.6x, high {shares[1]:.2%} of 0.4x"
    return text, shares[1] >= 0.994


@case(9, "deadline of 5 ms; callers who leave", "504 within budget + 20 ms, or labelled; nothing left under way")
def deadlines(bundle: Path) -> Outcome:
    with serving({"recgpt": bundle}) as target:
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


@case(
    11, "engine thread hangs, then dies", "labelled fallback or 503; /ready red with the reason <= 2 s; back by itself"
)
def lost_thread(bundle: Path) -> Outcome:
    parts, is_good = list[str](), True
    with tempfile.TemporaryDirectory() as folder:
        switch = Path(folder) / "wish"
        os.environ[SWITCH] = str(switch)
        command = Checkout(command=(sys.executable, "-m", "benchmarks.hanging"))
        with serving({"recgpt": bundle}, "--redis-url", "memory", checkout=command) as target:
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


@case(17, "odd ids and bodies", "400, 413 or 422; replies <= 4 KB")
def odd_ids(bundle: Path) -> Outcome:
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
    with serving({"recgpt": bundle}, "--redis-url", "memory") as target, httpx.Client(base_url=target.url) as client:
        replies = [client.post("/recall", content=body, timeout=30) for body in bodies]
    statuses, largest = Counter(reply.status_code for reply in replies), max(len(reply.content) for reply in replies)
    return f"statuses {dict(statuses)}, largest reply {largest} bytes", {*statuses} <= {
        400,
        413,
        422,
    } and largest <= 4096


@case(20, "2,000 sockets that drip", "all closed <= 10 s; others' p99 <= 1.5x")
def drips(bundle: Path) -> Outcome:
    with serving({"recgpt": bundle}) as target:
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


def of_kind(target: Target, kind: str) -> list[psutil.Process]:
    return children_running(f"service.processes.{kind}", target.pid)


def answers_whole(target: Target) -> bool:
    """True where every one of several requests, on connections of their own, gets a whole answer."""
    if sum(map(is_listening, of_kind(target, "http"))) < 2 or not of_kind(target, "engine"):
        return False
    try:
        replies = [httpx.post(f"{target.url}/recall/recgpt", json={"history": [1]}, timeout=30) for _ in range(6)]
    except httpx.HTTPError:
        return False
    return all(reply.status_code == 200 and reply.json()["degraded"] == [] for reply in replies)


@case(23, "no key, wrong key, key elsewhere, missing scope; a key's rate", "401 or 403 in constant time; 429 a key")
def keys(bundle: Path) -> Outcome:
    """The routes are walked over by tests/service/http/test_api_keys.py; here a few, and the time of a refusal."""
    made = {name: new_key(name, [name], 50 if name == "feedback" else None) for name in Scope}
    right, wrong = made[Scope.RECALL][0], PREFIX + "A" * 43
    text = ";".join(key.line for _, key in made.values())
    with (
        serving({"recgpt": bundle}, "--redis-url", "memory", "--api-keys", text) as target,
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


IN_TESTS = "not measured here; held by {} of the test suite"
NOT_RUN = [
    Case(4, "Redis out of memory, read-only, loading, wrong password", "0 failed; a counter a cause; log <= 1 line/s",
         reason=IN_TESTS.format("tests/service/stores/test_redis_client.py")),
    Case(5, "FLUSHALL; corrupt, truncated, old, NaN values", "computed again; 0 wrong",
         reason=IN_TESTS.format("tests/service/http/test_faults.py")),
    Case(12, "out of memory in a batch", "batch halved and tried once more",
         reason=IN_TESTS.format("tests/service/engine/test_engine.py")),
    Case(13, "50 hot swaps under load", "0 errors; 0 mixed; memory +-5 %",
         reason="measured by benchmarks/hot_swaps.py: results/hot_swaps.jsonl"),
    Case(14, "bad bundles", "refused with a reason before any swap",
         reason=IN_TESTS.format("tests/service/reload, tests/index/bundle")),
    Case(15, "golden queries below the floor", "refused", reason=IN_TESTS.format("tests/index/bundle")),
    Case(16, "unknown user, unknown items, empty history", "200, flagged",
         reason=IN_TESTS.format("tests/service/http/test_recall.py")),
    Case(18, "huge bodies, endless ones", "413 after <= 64 KiB; others' p99 <= 1.2x",
         reason=IN_TESTS.format("tests/service/http/test_refusals.py (without the p99)")),
    Case(19, "top_n 0, -1, 1e9", "422", reason=IN_TESTS.format("tests/service/http/test_refusals.py")),
    Case(21, "CL+TE, duplicate CL, bare LF, 1 MB header", "400 or 431",
         reason=IN_TESTS.format("tests/service/http/test_edges.py, test_refusals.py")),
    Case(22, "schemathesis", "0 server errors, 0 violations",
         reason=IN_TESTS.format("tests/service/http/test_openapi.py")),
    Case(26, "broken experiment file", "old configuration stays",
         reason=IN_TESTS.format("tests/service/experiments/test_live.py, tests/service/http/test_live_experiments.py")),
    Case(27, "events Redis away; consumer killed", "0 lost, 0 duplicates",
         reason="measured by benchmarks/consumer_kills.py: results/consumer_kills.jsonl; Redis away: "
         "tests/service/events/test_outbox.py"),
    Case(28, "a user alone and in a batch", "same list; a bad neighbour fails nobody",
         reason=IN_TESTS.format("tests/service/engine/test_engine.py")),
    Case(29, "soak with a fault a minute", "memory <= 1 %/h; descriptors flat",
         reason="measured by benchmarks/fault_soak.py: results/fault_soak.jsonl"),
    Case(33, "disk full for the spool; the clock an hour ahead or behind; Redis absent at the start",
         "0 failed; dropped events are counted",
         reason="not measured; a full disk under the spool alone is held by tests/service/events/test_spool.py"),
]  # fmt: skip


def row(each: Case, bundle: Path) -> dict[str, Any]:
    facts = {"id": each.id, "name": each.name, "criterion": each.criterion}
    if each.run is None:
        return facts | {"measured": each.reason, "passed": None}
    try:
        measured, passed = each.run(bundle)
    except (RuntimeError, OSError, httpx.HTTPError) as error:
        measured, passed = f"the case broke: {error!r}"[:300], False
    return facts | {"measured": measured, "passed": passed, **where_and_when()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="*", help="rows to run; default: all that can be")
    parser.add_argument("--output", type=Path, help="JSON; rows that are not run stay as they are")
    options = parser.parse_args()
    before = json.loads(options.output.read_text()) if options.output and options.output.exists() else []
    rows = {each["id"]: each for each in before}
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), Sizes(num_items=NUM_ITEMS))
        for each in sorted([*CASES, *NOT_RUN], key=lambda known: known.id):
            if options.only is None or each.id in options.only or each.id not in rows:
                is_left = options.only is not None and each.id not in options.only
                chosen = replace(each, run=None, reason=each.reason or "not measured yet") if is_left else each
                rows[each.id] = row(chosen, bundle)
                print(json.dumps(rows[each.id]), flush=True)
                if options.output:
                    listed = [rows[number] for number in sorted(rows)]
                    options.output.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    shown = {True: "passed", False: "FAILED", None: "-"}
    for number in sorted(rows):
        print(f"{number:3} {shown[rows[number]['passed']]:7} {rows[number]['name']}: {rows[number]['measured']}")


if __name__ == "__main__":
    main()
