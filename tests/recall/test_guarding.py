"""recall experiment guard: a planted regression stops the experiment in its file, and a running service follows."""

import json
import time

import httpx
import pytest

from benchmarks.consumer_kills import EXPOSURE
from service.consumer.files import EventFolder
from service.consumer.tables import TABLES
from tests.growthbook_server import payload, running
from tests.waiting import wait_for

KEY, USERS = "exp", 1200
EXPOSURES = {table.name: table for table in TABLES}["exposures"]
RULE = {
    "key": KEY,
    "hashAttribute": "user_id",
    "hashVersion": 2,
    "variations": ["comirec", "recgpt"],
    "meta": [{"key": "control"}, {"key": "recgpt"}],
}


def write_log(folder, failing):
    """Users of both arms; of recgpt's, one in `failing` gets no answer."""
    own = {"experiment": KEY, "phase": "", "ts_ms": 1_795_000_000_000}
    rows = []
    for n in range(USERS):
        served = "503" if n % 2 and failing and n // 2 % failing == 0 else "x"
        names = {"id": str(n), "unit": str(n), "variation": ("control", "recgpt")[n % 2], "stream_id": f"{n + 1}-0"}
        rows.append(EXPOSURE | own | names | {"served": served})
    files = EventFolder(folder)
    files.write(EXPOSURES, rows)
    files.close()
    return folder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiments.json"
    path.write_text(json.dumps({"features": {"recall_arm": {"defaultValue": "comirec", "rules": [RULE]}}}))
    return path


def rule_in(path):
    [rule] = json.loads(path.read_text())["features"]["recall_arm"]["rules"]
    return rule


def test_breach_stops_the_experiment_in_a_running_service(run_recall, launch, arm_options, file, tmp_path):
    log = write_log(tmp_path / "log", failing=5)
    with launch(*arm_options, "--experiments", file, "--watch-experiments-s", "0.2") as served:

        def reason():
            return httpx.post(f"{served.url}/recall", json={"user_id": 1, "history": []}).json()["experiment"]["reason"]

        assert reason() == "experiment"
        ended = run_recall("experiment", "guard", KEY, "--log", log, "--experiments", file)
        assert (ended.status, ended.last_line) == (0, {"experiment": KEY, "paused": ["recgpt"]}), ended.err
        assert "error_rate of recgpt: breached" in ended.out
        assert rule_in(file) == RULE | {"active": False}
        deadline = time.monotonic() + 30
        while reason() != "no_experiment":
            assert time.monotonic() < deadline, "the service did not follow"
            time.sleep(0.1)


def test_breach_stops_an_experiment_of_a_growthbook_server(run_recall, launch, arm_options, tmp_path):
    """Its payload still says that the experiment runs, and it is away when the guard rail is breached."""
    log = write_log(tmp_path / "log", failing=5)
    with running() as server:
        server.body = payload(meta=RULE["meta"])
        options = ("--experiments-url", server.url, "--watch-experiments-s", "0.2")
        with launch(*arm_options, *options, "--request-timeout-ms", "30000") as served:

            def reason():
                body = {"user_id": 1, "history": []}
                return httpx.post(f"{served.url}/recall", json=body, timeout=60).json()["experiment"]["reason"]

            assert reason() == "experiment"
            server.status = 500
            ended = run_recall("experiment", "guard", KEY, "--log", log, "--state-dir", served.state)
            assert (ended.status, ended.last_line["paused"]) == (0, ["recgpt"]), ended.err
            wait_for(lambda: reason() == "no_experiment")
            state = httpx.get(f"{served.url}/ready", timeout=60).json()["experiments"]
            assert (state["paused"], "status 500" in state["refused"]) == ([KEY], True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "name either the experiments' file"),
        (("--experiments", "a.json", "--state-dir", "b"), "name either the experiments' file"),
        (("--state-dir", "nowhere"), "has not had a payload of --experiments-url"),
    ],
)
def test_a_guard_knows_what_it_would_stop_before_it_looks(run_recall, tmp_path, given, sentence):
    ended = run_recall("experiment", "guard", KEY, "--log", tmp_path, *given)
    assert (ended.status, sentence in ended.sentence) == (2, True), ended.err


def test_arms_that_fail_alike_go_on(run_recall, file, tmp_path):
    log = write_log(tmp_path / "log", failing=0)
    ended = run_recall("experiment", "guard", KEY, "--log", log, "--experiments", file, "--once")
    assert (ended.status, ended.last_line) == (0, {"experiment": KEY, "paused": []}), ended.err
    assert rule_in(file) == RULE


def test_tolerance_of_the_operator_holds(run_recall, file, tmp_path):
    log = write_log(tmp_path / "log", failing=5)
    options = ("--log", log, "--experiments", file, "--guardrail", "error_rate=.5", "--once")
    assert run_recall("experiment", "guard", KEY, *options).last_line["paused"] == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"key": "another"}, "has no experiment 'exp'"), ({"phase": "7"}, "has phase '7' of exp, the report is of ''")],
)
def test_experiment_that_is_not_in_the_file_is_refused(run_recall, file, tmp_path, changes, sentence):
    file.write_text(json.dumps({"features": {"recall_arm": {"defaultValue": "comirec", "rules": [RULE | changes]}}}))
    log = write_log(tmp_path / "log", failing=5)
    ended = run_recall("experiment", "guard", KEY, "--log", log, "--experiments", file, "--once")
    assert ended.status == 2
    assert sentence in ended.sentence


@pytest.mark.parametrize(("rail", "sentence"), [("eror_rate=.1", "names 'eror_rate'"), ("error_rate=x", "no number")])
def test_a_mistyped_guard_rail_is_refused_before_anybody_is_exposed(run_recall, file, tmp_path, rail, sentence):
    nobody = tmp_path / "log"
    nobody.mkdir()
    ended = run_recall("experiment", "guard", KEY, "--log", nobody, "--experiments", file, "--guardrail", rail)
    assert ended.status == 2
    assert sentence in ended.err
