"""Several HTTP processes before one engine process: the same answers, one set of metrics, and what dies comes back."""

import os
import re
import signal
import time

import httpx
import psutil
import pytest
import redis
import torch

from recall.bench.target import children_running, is_listening
from service.telemetry.collectors import add_up
from tests.waiting import wait_for

PATIENT = (
    *("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000"),
    *("--engine-stall-ms", "60000", "--target-wait-ms", "5000"),
)
LIMIT_S = 60


@pytest.fixture(scope="module")
def split(launch, arm_options):
    with launch(*arm_options, *PATIENT, "--http-workers", "2") as served:
        yield served


def ask(url, path, **body):
    # a connection of its own each: the kernel spreads them over the processes
    reply = httpx.post(url + path, json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def processes_of(served, kind="http"):
    """Its running processes of one kind; one that has ended and was not yet waited for is none."""
    return children_running(f"service.processes.{kind}", served.process.pid)


def test_answers_are_those_of_one_process(split, recall, known):
    for n in range(12):
        body = {"history": known[n : 3 * n], "top_n": 20, "exclude": known[:5], "explain": True, "user_id": 500 + 3 * n}
        for arm in ("recgpt", "comirec"):
            split_answer, whole = ask(split.url, f"/recall/{arm}", **body), recall(f"/recall/{arm}", **body)
            for column in ("items", "scores", "sources", "prompts", "bundle", "degraded"):
                assert split_answer[column] == whole[column]


def test_vectors_are_shared_by_the_http_processes(split, known):
    body = {"history": known[40:47], "top_n": 5}
    answers = [ask(split.url, "/recall/recgpt", **body)["cache"] for _ in range(8)]
    assert answers == ["miss"] + ["hit"] * 7


def test_users_keep_their_arm_in_every_process(split):
    answers = [ask(split.url, "/recall", user_id=7)["experiment"] for _ in range(8)]
    assert len({(experiment["assigned"], experiment["key"]) for experiment in answers}) == 1


def test_a_hide_holds_at_once_in_every_process(split, known):
    for n in range(12):
        body = {"user_id": f"hides {n}", "history": known[n : n + 5], "top_n": 5}
        first = ask(split.url, "/recall/recgpt", **body)["items"][0]
        event = {"user_id": f"hides {n}", "item_id": first, "action": "hide"}
        assert httpx.post(f"{split.url}/feedback", json=event, timeout=60).status_code == 202
        assert first not in ask(split.url, "/recall/recgpt", **body)["items"]


def test_histories_are_shared(split, known):
    reply = httpx.post(
        f"{split.url}/feedback", json={"user_id": "split-1", "item_id": known[9], "action": "play"}, timeout=60
    )
    assert reply.status_code == 202
    prompts = [ask(split.url, "/recall/recgpt", user_id="split-1", top_n=300)["items"] for _ in range(4)]
    assert all(known[9] not in items for items in prompts)


def test_metrics_are_those_of_all_processes(split, known):
    def served():
        text = httpx.get(f"{split.url}/metrics", timeout=60).text
        return sum(
            float(n) for n in re.findall(r'^recall_served_total\{arm="recgpt".*\} (\S+)$', text, re.MULTILINE)
        ), text

    before, _ = served()
    for n in range(10):
        ask(split.url, "/recall/recgpt", history=known[n : n + 2], top_n=3)
    after, text = served()
    assert after - before == 10
    assert 'recall_stage_seconds_count{arm="recgpt",stage="encode"}' in text
    assert 'recall_stage_seconds_count{arm="recgpt",stage="total"}' in text
    assert text.count("# TYPE recall_stage_seconds histogram") == 1
    # processes of one kind are added up, others told apart
    assert {*re.findall(r'^recall_process_tasks\{process="(.*)"\}', text, re.MULTILINE)} == {"http", "engine"}


def test_http_processes_load_no_torch(split, known):
    """Neither at their start nor with the requests of every kind that they answer."""
    for n in range(8):
        ask(split.url, "/recall", history=known[n : n + 2], explain=True)
        ask(split.url, "/recall/batch", requests=[{"history": known[:3]}])
        ask(split.url, "/embed", history=known[n : n + 2])
        assert httpx.get(f"{split.url}/arms", timeout=60).status_code == 200
    [engine] = processes_of(split, "engine")
    # the libraries that a running process has mapped: what it imported, by whichever way
    libraries = {p.pid: " ".join(part.path for part in p.memory_maps()) for p in [engine, *processes_of(split)]}
    assert "libtorch" in libraries.pop(engine.pid)
    assert [name for text in libraries.values() for name in ("torch", "faiss", "polars") if f"/{name}" in text] == []


def test_version_is_that_of_torch_in_the_process_that_computes(split):
    assert httpx.get(f"{split.url}/version", timeout=60).json()["torch"] == torch.__version__


def test_health_asks_the_engine(split):
    assert httpx.get(f"{split.url}/health", timeout=60).json()["engines"] == {"recgpt": "ok", "comirec": "ok"}
    assert len(processes_of(split)) == 2


def test_ends_when_told_and_leaves_nothing(split):
    children = processes_of(split)
    assert len(children) == 2
    assert split.stop() == 0
    wait_for(lambda: not any(child.is_running() for child in children))


PATIENT_WITH_FALLBACK = ("--request-timeout-ms", "5000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000")


@pytest.fixture(scope="module")
def shaken(launch, arm_options):
    """A service whose processes are killed and stopped; each test leaves it whole."""
    with launch(*arm_options, *PATIENT_WITH_FALLBACK, "--http-workers", "2") as served:
        yield served


def is_whole(served):
    """True where all processes are there, every HTTP process is ready, and requests get whole answers."""
    https = processes_of(served)
    # else all that is asked below is answered by the process that listens already
    if (len(https), len(processes_of(served, "engine"))) != (2, 1) or not all(map(is_listening, https)):
        return False
    try:
        is_ready = all(httpx.get(served.url + "/ready", timeout=60).status_code == 200 for _ in range(6))
        body = {"history": [10_001], "top_n": 1}
        replies = [httpx.post(served.url + "/recall/comirec", json=body, timeout=60) for _ in range(2)]
        return is_ready and all(reply.json().get("degraded") == [] for reply in replies)
    except httpx.HTTPError:
        return False


def answer(served, **body):
    """The answer of whichever HTTP process takes it, or the error of a connection that was cut."""
    try:
        return httpx.post(served.url + "/recall/comirec", json=body, timeout=60)
    except httpx.HTTPError as error:
        return error


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_an_http_process_that_dies_or_hangs_is_started_again(shaken, known, number):
    before = processes_of(shaken)
    before[0].send_signal(number)
    wait_for(lambda: not before[0].is_running() or before[0].status() == psutil.STATUS_ZOMBIE)
    wait_for(lambda: is_whole(shaken))
    assert len({child.pid for child in processes_of(shaken)} & {child.pid for child in before}) == 1
    assert answer(shaken, history=known[:3], top_n=5).json()["degraded"] == []


def is_idle(process):
    before = process.cpu_times()
    time.sleep(0.5)
    return process.cpu_times() == before


def test_a_process_that_starts_takes_no_connection_before_it_can_answer(shaken, known):
    """It waits for an engine process that says nothing: the port is shared, and who comes meanwhile is the others'."""
    before = {*processes_of(shaken)}
    stopped = [psutil.Process(shaken.process.pid), *processes_of(shaken, "engine")]
    min(before, key=lambda process: process.pid).kill()
    wait_for(lambda: {*processes_of(shaken)} - before)
    [starting] = {*processes_of(shaken)} - before
    for process in stopped:
        process.suspend()
    try:
        wait_for(lambda: starting.cpu_times().user > 0.2 and is_idle(starting))
        sockets = [connection.status for connection in starting.net_connections("tcp")]
        replies = [answer(shaken, history=known[:3], top_n=5) for _ in range(4)]
    finally:
        for process in stopped:
            process.resume()
    assert psutil.CONN_LISTEN not in sockets
    assert {reply.status_code for reply in replies} == {200}
    wait_for(lambda: is_whole(shaken))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_an_engine_process_that_dies_or_hangs_is_started_again_and_the_fallback_answers_meanwhile(
    shaken, known, number
):
    [engine] = processes_of(shaken, "engine")
    seen, unready = [], []
    # the supervisor stands still meanwhile: on a slow machine the next engine process could be there before we look
    supervisor = psutil.Process(shaken.process.pid)
    supervisor.suspend()
    try:
        engine.send_signal(number)
        deadline = time.monotonic() + LIMIT_S
        while not unready and time.monotonic() < deadline:
            seen.append(answer(shaken, history=known[:3], top_n=5))
            reply = httpx.get(shaken.url + "/ready", timeout=60)
            unready += [reply.json()["failing"]] if reply.status_code == 503 else []
        seen.append(answer(shaken, history=known[:3], top_n=5))
    finally:
        supervisor.resume()
    wait_for(lambda: is_whole(shaken))
    assert {reply.status_code for reply in seen} == {200}
    assert seen[-1].json()["experiment"]["served"] == "fallback"
    assert set(unready[0].values()) == {"the engine process gives no sign of life"}
    assert answer(shaken, history=known[:3], top_n=5).json()["degraded"] == []
    assert processes_of(shaken, "engine") != [engine]


def test_metrics_and_events_outlive_a_process(shaken, known):
    wait_for(lambda: is_whole(shaken))
    event = {"user_id": "kept", "item_id": known[3], "action": "play"}
    assert httpx.post(f"{shaken.url}/feedback", json=event, timeout=60).status_code == 202
    processes_of(shaken, "engine")[0].kill()
    wait_for(lambda: not is_whole(shaken))
    wait_for(lambda: is_whole(shaken))
    kept = answer(shaken, user_id="kept", top_n=300)
    assert kept.status_code == 200, kept.text
    assert known[3] not in kept.json()["items"]
    assert 'stage="encode"' in httpx.get(f"{shaken.url}/metrics", timeout=60).text


def test_nothing_outlives_a_supervisor_that_is_killed(launch, arm_options):
    with launch(*arm_options, *PATIENT, "--http-workers", "1") as served:
        left = [*processes_of(served), *processes_of(served, "engine"), redis_of(served)]
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait(LIMIT_S)
        wait_for(lambda: not any(process.is_running() for process in left))


def test_a_bundle_that_is_refused_is_named_by_the_command(run_recall, tmp_path):
    ended = run_recall("serve", "--arm", f"recgpt={tmp_path}", "--http-workers", "1", "--port", "0")
    assert ended.status == 2
    assert str(tmp_path) in ended.err.splitlines()[-1]


def redis_of(served):
    socket = (served.state / "redis" / "redis.where").read_text()
    with redis.Redis(unix_socket_path=socket) as connection:
        return psutil.Process(connection.info("server")["process_id"])


def test_embedded_redis_does_not_outlive_a_killed_service(launch, arm_options):
    with launch(*arm_options, *PATIENT) as served:
        server = redis_of(served)
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait(LIMIT_S)
        wait_for(lambda: not server.is_running())


ONE = """# HELP a_total x
# TYPE a_total counter
a_total{l="1"} 2
# TYPE recall_coverage gauge
recall_coverage 0.2
"""
OTHER = """# HELP a_total x
# TYPE a_total counter
a_total{l="1"} 3
a_total{l="2"} 5
# TYPE recall_coverage gauge
recall_coverage 0.4
"""


def test_counts_add_up_and_shares_do_not():
    text = add_up([ONE, OTHER]).decode()
    assert 'a_total{l="1"} 5.0' in text
    assert 'a_total{l="2"} 5.0' in text
    assert float(re.search(r"^recall_coverage (\S+)$", text, re.MULTILINE)[1]) == pytest.approx(0.3)
