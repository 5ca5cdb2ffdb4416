"""The loop closes: served, fed back, kept, judged, trained on, swapped in, served; by commands and HTTP alone."""

import shutil

import httpx
import polars as pl
import pytest

USERS, LENGTH = range(12), 4
RECIPE = """
comirec:
  network: {dim: 16, num_interests: 2, max_length: 8, prefixes_per_user: 1}
  batch_users: 8
  stages: [{num_epochs: 1}]
"""


@pytest.fixture(scope="module")
def log(launch, arm_options, tmp_path_factory):
    """The event log that a service with an embedded Redis leaves behind, with its answers by user."""
    patience = ("--request-timeout-ms", "30000", "--events-timeout-ms", "5000", "--redis-timeout-ms", "5000")
    with (
        launch(*arm_options, *patience, "--exposure-sample", "1", "--qa-key", "key", RECALL_EVENT_LOG_GB="1") as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        lists = {user: client.post("/recall", json={"user_id": user, "top_n": LENGTH}).json() for user in USERS}
        for user, answer in lists.items():
            for moment, item in enumerate(answer["items"]):
                event = {"user_id": user, "item_id": item, "action": "play", "request_id": answer["request_id"]}
                client.post("/feedback", json=event | {"event_id": str(moment)}).raise_for_status()
        headers = {"X-AB-Bucket": "recgpt", "X-QA-Key": "key"}
        client.post("/recall", json={"user_id": 0}, headers=headers).raise_for_status()
        assert served.stop() == 0
        yield served.state / "events", lists


def test_files_hold_what_was_served_and_done(log):
    folder, lists = log
    exposures = pl.read_parquet(folder / "exposures" / "*" / "*.parquet")
    assert dict(exposures.select("unit", "assigned").iter_rows()) == {
        str(user): answer["arm"] for user, answer in lists.items()
    }
    shown = pl.read_parquet(folder / "shown" / "*" / "*.parquet")
    listed = dict(shown.select("request_id", "items").iter_rows())
    assert {request_id: list(map(int, items)) for request_id, items in listed.items()} == {
        answer["request_id"]: answer["items"] for answer in lists.values()
    }
    assert pl.read_parquet(folder / "feedback" / "*" / "*.parquet").height == LENGTH * len(USERS)
    assert not (folder / "dead").exists()


def test_they_are_prepared_for_training_without_the_tester(log, run_recall, tmp_path):
    folder, lists = log
    prepared = run_recall("prepare", "--format", "events", "--input", folder, "--output", tmp_path / "data")
    assert prepared.status == 0, prepared.err
    assert prepared.last_line["users"] == len(USERS) - 1
    assert prepared.last_line["items"] == len({item for user in USERS if user for item in lists[user]["items"]})
    assert (prepared.last_line["valid"], prepared.last_line["test"]) == (len(USERS) - 1, len(USERS) - 1)


def test_they_are_rows_of_users_without_the_tester(log, run_recall, tmp_path):
    folder, _ = log
    output = tmp_path / "users.parquet"
    made = run_recall("events", "users", "--experiment", "recgpt-vs-comirec", "--log", folder, "--output", output)
    assert sum(made.last_line["variations"].values()) == len(USERS) - 1
    assert pl.read_parquet(output)["plays"].to_list() == [LENGTH] * (len(USERS) - 1)


def test_what_is_trained_on_them_takes_the_place_of_what_was_served(log, launch, bundles, run_recall, tmp_path):
    folder, lists = log
    data, trained, served_bundle = (tmp_path / name for name in ("data", "trained", "served"))
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    shutil.copytree(bundles["comirec"], served_bundle)
    with (
        launch("--arm", f"comirec={served_bundle}", "--admin-key", "key") as served,
        httpx.Client(base_url=served.url) as client,
    ):
        before = client.post("/recall/comirec", json={"user_id": 1, "history": []}).json()
        for command in (
            ("prepare", "--format", "events", "--input", folder, "--output", data),
            ("train", "comirec", "--recipe", tmp_path / "tiny.yaml", "--data", data, "--output", trained),
            ("build", "--checkpoint", trained, "--output", served_bundle),
        ):
            ended = run_recall(*command)
            assert ended.status == 0, ended.err
        [swapped] = run_recall("reload", "--url", served.url, RECALL_ADMIN_KEY="key").last_line["reloaded"]
        after = client.post("/recall/comirec", json={"user_id": 1, "history": before["items"][:1]}).json()
    assert swapped["changed"]
    assert before["bundle"] != after["bundle"] == ended.last_line["digest"][:16]
    played = {item for user in USERS if user for item in lists[user]["items"]}
    assert after["items"]
    assert {*after["items"]} <= played
