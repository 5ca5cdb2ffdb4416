"""Histories over HTTP: bundles that know what their training called positive, in processes that load no weights."""

from dataclasses import replace

import httpx
import pytest
import redis

from index.bundle.build import build_bundle
from model.checkpoint import Checkpoint
from model.positive import PositiveRule
from service.stores.history import decode_item

RULES = {"recgpt": PositiveRule(0.5), "comirec": PositiveRule(any_of=("like",))}
PATIENT = ("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000")
ACTIONS = {
    10_001: {"action": "play", "watch_time_ms": 600, "duration_ms": 1000},
    10_008: {"action": "play", "watch_time_ms": 400, "duration_ms": 1000},
    10_015: {"action": "like"},
    10_022: {"action": "share"},
    10_029: {"action": "play"},
}


@pytest.fixture(scope="module")
def ruled(checkpoints, tmp_path_factory):
    """Options that serve bundles whose arms were trained by different rules."""
    root, words = tmp_path_factory.mktemp("ruled"), []
    for arm, rule in RULES.items():
        trained = Checkpoint.load(checkpoints[arm])
        known = replace(trained, provenance=replace(trained.provenance, positive=rule))
        known.save(root / f"{arm}-checkpoint")
        build_bundle(root / f"{arm}-checkpoint", root / arm)
        words += ["--arm", f"{arm}={root / arm}"]
    return words


def history_after(served, user):
    """The history of a user who did ACTIONS, and how many events the log has of them."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for item, action in ACTIONS.items():
            assert client.post("/feedback", json={"user_id": user, "item_id": item} | action).status_code == 202
        arms = client.get("/arms").json()["arms"]
    with redis.Redis(unix_socket_path=(served.state / "redis" / "redis.where").read_text()) as store:
        return (
            [decode_item(entry) for entry in store.lrange(f"hist:{user}", 0, -1)],
            store.xlen("recall:feedback"),
            arms,
        )


def test_an_event_enters_that_the_rule_of_any_bundle_counts(launch, ruled):
    with launch(*ruled, *PATIENT, "--http-workers", "1") as served:
        history, num_events, arms = history_after(served, "u")
    assert (history, num_events) == ([10_001, 10_015], len(ACTIONS))
    assert {name: arm["positive"] for name, arm in arms.items()} == {"recgpt": ["watch:0.5"], "comirec": ["like"]}


def test_a_setting_counts_in_place_of_the_bundles(launch, ruled):
    with launch(*ruled[:2], *PATIENT, "--positive", "share,watch:0.3") as served:
        history, num_events, _ = history_after(served, "u")
    assert (history, num_events) == ([10_001, 10_008, 10_022], len(ACTIONS))
