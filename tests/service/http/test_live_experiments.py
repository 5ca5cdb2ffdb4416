"""The experiments' file changed under load: every process follows within seconds, and no request fails."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

import httpx
import pytest

LOADED_S = 60  # on a machine that others use too
PATIENT = ("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000")


def feature(coverage, settings=(), **changes):
    experiment = {
        "key": "exp",
        "hashAttribute": "user_id",
        "hashVersion": 2,
        "coverage": coverage,
        "variations": ["comirec", "recgpt"],
    }
    layer = {"recall_settings": {"defaultValue": {}, "rules": [*settings]}} if settings else {}
    return json.dumps(
        {"features": {"recall_arm": {"defaultValue": "comirec", "rules": [experiment | changes]}} | layer}
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("experiments") / "experiments.json"


@pytest.fixture(scope="module")
def served(launch, arm_options, bundles, path):
    path.write_text(feature(1))
    again = ("--arm", f"recgpt_two={bundles['recgpt']}")
    workers = ("--http-workers", "2", "--experiments", str(path), "--watch-experiments-s", "0.5")
    with launch(*arm_options, *again, *PATIENT, *workers) as running:
        yield running


def ask_on_a_new_connection(url, path="/recall"):
    """An answer of any process: the system chooses one for each connection."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    with closing(connection):
        method, body = ("GET", None) if path == "/ready" else ("POST", json.dumps({"user_id": "user-1", "history": []}))
        connection.request(method, path, body)
        reply = connection.getresponse()
        assert reply.status == 200
        return json.loads(reply.read())


def until_everywhere(url, path, holds):
    """Asks until twenty answers in a row hold; both processes are among them, but for one time in a million."""
    deadline = time.monotonic() + LOADED_S
    streak = 0
    while streak < 20:
        streak = streak + 1 if holds(ask_on_a_new_connection(url, path)) else 0
        assert time.monotonic() < deadline, "not live everywhere in time"


def change(path, text):
    coming = path.with_suffix(".new")
    coming.write_text(text)
    coming.replace(path)


def reason(answer):
    return answer["experiment"]["reason"]


def test_the_kill_switch_reaches_every_process_under_load(served, path):
    with ThreadPoolExecutor(4) as senders:
        load = [senders.submit(ask_on_a_new_connection, served.url) for _ in range(100)]
        change(path, feature(1, active=False))
        until_everywhere(served.url, "/recall", lambda answer: reason(answer) == "no_experiment")
        assert {reason(answer.result()) for answer in load} <= {"experiment", "no_experiment"}
    change(path, feature(1))
    until_everywhere(served.url, "/recall", lambda answer: reason(answer) == "experiment")


def test_a_refused_file_is_said_everywhere_and_changes_nothing(served, path):
    before = ask_on_a_new_connection(served.url)["experiment"]
    change(path, feature(2))
    until_everywhere(served.url, "/ready", lambda state: "coverage 2" in (state["experiments"]["refused"] or ""))
    assert ask_on_a_new_connection(served.url)["experiment"] == before
    metrics = httpx.get(f"{served.url}/metrics", timeout=60).text
    assert "recall_experiments_refused 2.0" in metrics
    assert 'recall_experiment_loads_total{result="refused"} 2.0' in metrics
    change(path, feature(1))
    until_everywhere(served.url, "/ready", lambda state: state["experiments"]["refused"] is None)


def test_a_layer_sets_the_arm_of_another_and_the_answer_names_both(served, path):
    steps = {
        "key": "steps",
        "hashAttribute": "user_id",
        "hashVersion": 2,
        "variations": [{}, {"recgpt": "recgpt_two"}],
    }
    before = ask_on_a_new_connection(served.url, "/ready")["experiments"]["config"]
    change(path, feature(1, [steps], phase="2"))
    until_everywhere(served.url, "/ready", lambda state: state["experiments"]["config"] != before)
    answers = set()
    for user in range(40):
        reply = httpx.post(f"{served.url}/recall", json={"user_id": user, "history": []}, timeout=60)
        names = [reply.headers.get(f"X-AB-{name}") for name in ("Experiment", "Bucket", "Layers")]
        answers.add((*names, reply.json()["arm"], reply.json()["experiment"]["assigned"]))
    assert answers == {
        ("exp", "0", None, "comirec", "comirec"),
        ("exp", "1", "steps=0", "recgpt", "recgpt"),
        ("exp", "1", "steps=1", "recgpt_two", "recgpt_two"),
    }
