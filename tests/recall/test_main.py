"""The `recall` command from a log to an answer; a user's mistake is one sentence and status 2."""

import json
import random
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

COMMANDS = [
    "prepare",
    "train",
    "build",
    "sign",
    "evaluate",
    "compare",
    "export",
    "serve",
    "query",
    "reload",
    "demo",
    "doctor",
    "reproduce",
    "tune",
]
RECIPE = """
recgpt:
  network: {dim: 8, num_layers: 1, num_heads: 2, max_length: 10, dropout: 0.1}
  stages: [{num_epochs: 5}, {num_epochs: 5, num_prompts: 1}]
  batch_users: 32
  warmup_steps: 2
  plan: {num_prompts: [1], placements: [none, tail], num_steps: [2]}
comirec:
  network: {dim: 8, num_interests: 2, max_length: 10}
  stages: [{num_epochs: 5}]
  batch_users: 32
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log of 40 users who go in circles over 30 videos and like every second one, and a recipe."""
    folder = tmp_path_factory.mktemp("cli")
    steps = random.Random(7)
    rows = [
        f"u{user},{100 + (user + n) % 30},{1000 * n + steps.randrange(9)},{(user + n) % 2}"
        for user in range(40)
        for n in range(12)
    ]
    (folder / "log.csv").write_text("\n".join(["user_id,video_id,timestamp,is_like", *rows]))
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def prepared(run_recall, folder):
    places = ("--input", folder / "log.csv", "--output", folder / "data")
    return run_recall("prepare", "--format", "csv", *places, "--outcome", "like")


@pytest.fixture(scope="module", params=["recgpt", "comirec"])
def trained(run_recall, folder, prepared, request):
    """(arm, what `recall train` said)."""
    places = ("--data", folder / "data", "--output", folder / request.param)
    ended = run_recall("train", request.param, *places, "--recipe", folder / "tiny.yaml", "--max-epochs", 1)
    return request.param, ended


@pytest.fixture(scope="module")
def built(run_recall, folder, trained):
    arm, _ = trained
    places = ("--checkpoint", folder / arm, "--output", folder / "bundles" / arm)
    return folder / "bundles" / arm, run_recall("build", *places)


def test_installed_command_shows_all_its_commands():
    command = [str(Path(sys.executable).with_name("recall")), "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in ended.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(run_recall, command):
    ended = run_recall(command, "--help")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("Usage: recall")


def test_version(run_recall):
    assert run_recall("--version").out == "0.1.0\n"


@pytest.mark.parametrize("words", [["--help"], ["bench", "http", "--help"], ["prepare"]], ids=" ".join)
def test_the_module_and_the_script_are_the_same_command(words):
    ways = ([str(Path(sys.executable).with_name("recall"))], [sys.executable, "-m", "recall"])
    script, module = (subprocess.run([*way, *words], capture_output=True, text=True, check=False) for way in ways)
    assert (module.returncode, module.stdout, module.stderr) == (script.returncode, script.stdout, script.stderr)
    assert "Usage: recall" in module.stdout + module.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_has_whole_sentences(run_recall, command):
    [line] = [line for line in run_recall("--help").out.splitlines() if line.startswith(f"  {command} ")]
    assert line.endswith(".")
    assert not line.endswith("..")


def test_settings_of_the_service_alone_are_variables(run_recall, tmp_path):
    unwanted = {"RECALL_SHOW": "1", "RECALL_DEMO_START": "0", "RECALL_PREPARE_OUTPUT": str(tmp_path / "data")}
    assert run_recall("doctor", "--help", **unwanted).out.startswith("Usage: recall doctor")
    assert "Missing option '--output'" in run_recall("prepare", **unwanted).sentence
    assert "setting port" in run_recall("serve", RECALL_PORT="70000", RECALL_STATE_DIR=str(tmp_path)).sentence


def test_a_command_prints_no_log_lines_before_its_answer(run_recall, built, folder):
    for words in (("evaluate", "--bundle", built[0], "--data", folder / "data"), ("doctor", "--bundle", built[0])):
        ended = run_recall(*words)
        assert ended.status == 0, ended.err
        assert not [line for line in (ended.err + ended.out).splitlines()[:-1] if line.startswith("{")]


def test_prepare_says_what_it_read(prepared):
    assert prepared.status == 0, prepared.err
    told = prepared.last_line
    assert (told["users"], told["items"], told["valid"], told["test"]) == (40, 30, 40, 40)


def test_prepare_reports_bad_rows_and_goes_on(run_recall, tmp_path):
    rows = [f"u,{n},{n}" for n in range(300)] + ["u,,301"]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]))
    ended = run_recall("prepare", "--format", "csv", "--input", tmp_path / "log.csv", "--output", tmp_path / "data")
    assert (ended.status, ended.last_line["items"]) == (0, 300)
    assert "line 302" in ended.err
    assert "1 of 301 rows are bad" in ended.err


def test_prepare_shows_what_a_file_holds_as_text(run_recall, tmp_path):
    rows = [f"[/u],[b]{n},{n},-" for n in range(300)] + ["[/u],[b]1,[/x],-"]
    (tmp_path / "[red].csv").write_text("\n".join(["viewer,[/x],time,[/z]", *rows]))
    places = ("--input", tmp_path / "[red].csv", "--output", tmp_path / "[data]")
    ended = run_recall("prepare", *places, "--column", "user=viewer,item=[/x]")
    assert ended.status == 0, ended.err
    assert "line 302: time is not a number: [/x]" in ended.err
    assert "columns: user = viewer, item = [/x], time = time" in ended.err
    assert "ignored columns: [/z]" in ended.err
    assert "[red] -> " in ended.out


def test_prepare_joins_inputs_and_says_how_they_were_read(run_recall, tmp_path):
    (tmp_path / "a.tsv").write_text("uid\tiid\tts\n" + "".join(f"1\t{n}\t2024-01-01 00:00:0{n}\n" for n in range(5)))
    (tmp_path / "b.jsonl").write_text('{"user": 2, "item": 3, "time": "2024-01-01T00:00:09Z"}\n')
    places = ("--input", tmp_path / "a.tsv", "--input", tmp_path / "b.jsonl", "--output", tmp_path / "data")
    ended = run_recall("prepare", *places, "--timezone", "Asia/Shanghai")
    assert (ended.status, ended.last_line["users"], ended.last_line["items"]) == (0, 2, 5)
    for sentence in (
        "separator: tab",
        "times: milliseconds since 1970, from 2023-12-31 16:00 to 2024-01-01 00:00 (UTC)",
        "user ids: 64-bit integers",
        "items without a training event: 1 of 5; ",
    ):
        assert sentence in ended.err


def test_train_says_what_it_chose(trained, folder):
    arm, ended = trained
    assert ended.status == 0, ended.err
    assert ended.last_line["checkpoint"] == str(folder / arm)
    plan = ended.last_line["plan"]
    assert len(plan["quotas"]) == {"recgpt": 2, "comirec": 0}[arm]
    assert plan["num_steps"] == {"recgpt": 2, "comirec": 1}[arm]
    assert {"placement", "num_prompts", "form", "temperature", "step_weights", "diversity"} < {*plan}


def test_build_says_what_is_in_the_bundle(built, trained):
    _, ended = built
    assert ended.status == 0, ended.err
    assert (ended.last_line["kind"], ended.last_line["items"]) == (trained[0], 30)


def test_evaluate_ends_with_its_metrics_as_json(run_recall, built, folder):
    asked = ("--cutoff", 5, "--cutoff", 30, "--by", "history")
    ended = run_recall("evaluate", "--bundle", built[0], "--data", folder / "data", *asked)
    assert ended.status == 0, ended.err
    assert (ended.last_line["split"], ended.last_line["users"]) == ("test", 40)
    # the next video of a circle of 30 is one of the 18 left after 12
    assert ended.last_line["metrics"]["recall@30"] == 1
    assert 0 <= ended.last_line["metrics"]["recall@5"] <= 1
    assert ended.last_line["metrics"]["coverage@30"] == 1  # every video is the next one of somebody
    [group] = ended.last_line["groups"]  # all histories hold 12 items
    assert (group["group"], group["users"], group["recall@30"]) == ("11 to 20", 40, 1)
    by_outcome = [(own["asked"], own["ended"], own["users"]) for own in ended.last_line["outcomes"]]
    assert by_outcome == [(None, "like", 20), ("like", "like", 20)]
    assert "recall@30, asked for like" in ended.out


def test_evaluate_refuses_a_bundle_of_other_data(run_recall, bundles, folder, prepared):
    ended = run_recall("evaluate", "--bundle", bundles["recgpt"], "--data", folder / "data")
    assert ended.status == 2
    assert "different items" in ended.sentence


def test_doctor_finds_nothing_wrong(run_recall, bundles):
    ended = run_recall("doctor", "--bundle", bundles["recgpt"])
    assert (ended.status, ended.last_line) == (0, {"failed": []})
    assert "golden queries replayed" in ended.out


def test_doctor_names_a_bad_bundle(run_recall, tmp_path):
    ended = run_recall("doctor", "--bundle", tmp_path)
    assert (ended.status, ended.last_line) == (1, {"failed": [f"bundle {tmp_path}"]})
    assert "is refused" in ended.out


def test_query_shows_the_answer_of_a_running_service(run_recall, service):
    ended = run_recall("query", "--url", service.url, "--history", "10001,10008", "--top-n", 3, "--arm", "recgpt")
    assert ended.status == 0, ended.err
    assert "arm recgpt (pinned)" in ended.out
    assert ended.out.count("step") == 3


def test_query_gives_the_refusal_of_the_service(run_recall, service):
    ended = run_recall("query", "--url", service.url, "--arm", "sasrec")
    assert ended.status == 2
    assert "404 unknown_arm: no arm is called 'sasrec'" in ended.sentence


MISTAKES = {
    "no input": (["prepare", "--format", "csv", "--output", "out"], "needs an input path"),
    "input that does not exist": (["prepare", "--format", "csv", "--input", "nowhere", "--output", "out"], "nowhere"),
    "two outputs": (
        ["prepare", "--output", "a", "--output", "b"],
        "--output is given more than once; it takes one value",
    ),
    "no pair of columns": (
        ["prepare", "--input", "a", "--column", "user", "--output", "out"],
        "it takes pairs such as item=clip,time=seen_at",
    ),
    "unknown column": (
        ["prepare", "--input", "a", "--column", "viewer=user", "--output", "out"],
        "--column knows the columns user, item, time",
    ),
    "unknown zone": (
        [
            "prepare",
            "--input",
            str(Path(__file__)),
            "--header",
            "user,item,time",
            "--timezone",
            "Mars/X",
            "--output",
            "o",
        ],
        "unknown time zone Mars/X",
    ),
    "unknown format": (["prepare", "--format", "xml", "--output", "out"], "unknown format 'xml'"),
    "unknown split": (["prepare", "--split", "random", "--output", "out"], "unknown split 'random'"),
    "no output": (["prepare"], "Missing option '--output'"),
    "unknown option": (["prepare", "--outputs", "out"], "No such option"),
    "unknown command": (["prepair"], "No such command"),
    "unknown recipe": (["train", "recgpt", "--data", ".", "--output", "o", "--recipe", "none"], "no recipe 'none'"),
    "no data": (
        ["train", "recgpt", "--data", "nowhere", "--output", "o", "--recipe", "demo"],
        "not a prepared data set",
    ),
    "unknown arm": (["train", "sasrec", "--data", ".", "--output", "o", "--recipe", "demo"], "has no arm 'sasrec'"),
    "no checkpoint": (["build", "--checkpoint", "nowhere", "--output", "o"], "is not a checkpoint"),
    "no bundle": (["evaluate", "--bundle", "nowhere", "--data", "nowhere"], "is refused"),
    "no arm": (["serve", "--port", "0"], "no arm to serve"),
    "no pair": (["serve", "--arm", "bundles/recgpt"], "is not NAME=BUNDLE"),
    "bad name of an arm": (["serve", "--arm", "a b=bundles"], "arm names are words"),
    "port out of range": (["serve", "--port", "70000"], "setting port"),
    "port is a word": (["serve", "--port", "http"], "Invalid value for '--port'"),
    "unknown device": (["serve", "--device", "tpu"], "setting device"),
    "no service": (["query", "--url", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9"),
    "no URL": (["query", "--url", "localhost"], "nothing answers at localhost"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_sentence(run_recall, tmp_path, name):
    args, reason = MISTAKES[name]
    ended = run_recall(*args, RECALL_STATE_DIR=str(tmp_path))
    assert ended.status == 2, ended.err
    assert reason in ended.sentence


def test_broken_recipe_is_one_sentence(run_recall, folder, prepared, tmp_path):
    for text in ("recgpt: [", "recgpt: {stages: [{epochs: 3}]}", "recgpt: {stages: [{}]}", "recgpt:", "- recgpt"):
        (tmp_path / "bad.yaml").write_text(text)
        places = ("--data", folder / "data", "--output", tmp_path / "out")
        ended = run_recall("train", "recgpt", *places, "--recipe", tmp_path / "bad.yaml")
        assert ended.status == 2, f"{text}: {ended.err}"
        assert "bad.yaml" in ended.sentence or "recipe" in ended.sentence


def test_failed_prepare_leaves_no_data_behind(run_recall, tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n1,2\n")
    ended = run_recall("prepare", "--format", "csv", "--input", tmp_path / "log.csv", "--output", tmp_path / "data")
    assert ended.status == 2
    assert "lacks a column" in ended.sentence
    assert not (tmp_path / "data").exists()


def test_port_in_use_is_one_sentence(run_recall, service, arm_options, tmp_path):
    port = urlsplit(service.url).port
    ended = run_recall("serve", "--port", port, "--state-dir", tmp_path, *arm_options)
    assert ended.status == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.sentence


@pytest.fixture(scope="module")
def from_environment(launch_command, bundles):
    """A service that has all its settings from the environment; asked to stop at the end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arms = f"one={bundles['recgpt']} two={bundles['comirec']}"
    settings = {"RECALL_ARM": arms, "RECALL_MAX_TOP_N": "7", "RECALL_REDIS_URL": "memory", "RECALL_LOG_LEVEL": "error"}
    with launch_command(RECALL_PORT=str(port), **settings) as served:
        yield served, port


def test_settings_come_from_the_environment(from_environment):
    served, port = from_environment
    assert served.url == f"http://127.0.0.1:{port}"
    assert list(httpx.get(f"{served.url}/arms").json()["arms"]) == ["one", "two"]
    assert httpx.post(f"{served.url}/recall", json={"top_n": 8}).status_code == 422


def test_one_of_two_arms_answers_all_where_nothing_names_an_experiment(from_environment):
    answers = [
        httpx.post(f"{from_environment[0].url}/recall", json={"user_id": n, "top_n": 1}).json() for n in range(10)
    ]
    assert {answer["arm"] for answer in answers} == {"one"}
    assert {answer["experiment"]["reason"] for answer in answers} == {"no_experiment"}


def test_memory_in_place_of_redis_keeps_histories_and_vectors(from_environment):
    url = from_environment[0].url
    for item in (10001, 10008):
        assert httpx.post(f"{url}/feedback", json={"user_id": 1, "item_id": item, "action": "play"}).status_code == 202
    first, second = (httpx.post(f"{url}/recall", json={"user_id": 1, "top_n": 7}).json() for _ in range(2))
    assert (first["degraded"], first["cache"], second["cache"]) == ([], "miss", "hit")


def test_service_that_is_told_to_stop_ends_with_status_0(from_environment):
    served, _ = from_environment
    assert served.stop() == 0
    assert "Traceback" not in served.log.read_text()
    assert not [line for line in served.log.read_text().splitlines() if line.startswith("{") and json.loads(line)]


def test_help_is_of_all_commands_whatever_follows(run_recall):
    assert "tune" in run_recall("--help", "serve").out


def test_a_service_starts_without_the_modules_of_other_commands():
    code = (
        "import sys; sys.argv = ['recall', 'serve', '--help']\n"
        "from recall.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print([name for name in ('polars', 'httpx', 'recall.tuning') if name in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "--arm" in printed
    assert printed.splitlines()[-1] == "[]"
