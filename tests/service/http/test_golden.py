"""Histories of live requests kept to try bundles on: in one process and in several, single requests and batches."""

import json
import shutil
from datetime import UTC, datetime

import httpx
import pytest

from index.bundle.build import build_bundle
from index.bundle.bundle import open_bundle
from tests.waiting import wait_for

ADMIN_KEY = "only-for-admins"
PATIENT = ("--request-timeout-ms", "30000", "--engine-stall-ms", "60000", "--target-wait-ms", "5000")
LAYOUTS = {"one process": (), "workers": ("--http-workers", "2")}
NUM_HISTORIES, LENGTH = 24, 5
GOLDEN = ("--golden-share", "1", "--golden-floor", "0.5")


@pytest.fixture(scope="module", params=LAYOUTS)
def kept(request, launch, bundles, checkpoints, known, tmp_path_factory):
    """(service, client) of recgpt; beside its bundle `alike` of the same weights and `other`, which lists text ids."""
    folder = tmp_path_factory.mktemp("arms")
    shutil.copytree(bundles["recgpt"], folder / "own")
    shutil.copytree(bundles["words"], folder / "other")
    build_bundle(checkpoints["recgpt"], folder / "alike", recorded=[known[:3]])
    options = ("--arm", f"main={folder / 'own'}", "--admin-key", ADMIN_KEY, *PATIENT, *GOLDEN)
    with (
        launch(*options, *LAYOUTS[request.param]) as served,
        httpx.Client(base_url=served.url, timeout=60, headers={"X-Admin-Key": ADMIN_KEY}) as client,
    ):
        yield served, client


@pytest.fixture(scope="module")
def histories(known):
    return [known[n : n + LENGTH] for n in range(NUM_HISTORIES)]


def reload(client, **body):
    return client.post("/admin/reload", json={"arm": "main"} | body)


def test_bundles_are_compared_on_what_was_asked_and_a_strange_one_is_refused(kept, histories, run_recall, checkpoints):
    served, client = kept
    nothing = reload(client, bundle="alike").json()
    assert (nothing["changed"], nothing["overlap"], nothing["compared"]) == (True, None, 0)
    # as many alone as in one batch, each with a user of its own
    for n, history in enumerate(histories[: NUM_HISTORIES // 2]):
        client.post("/recall", json={"user_id": f"secret-{n}", "history": history}).raise_for_status()
    batch = [{"user_id": f"secret-b{n}", "history": own} for n, own in enumerate(histories[NUM_HISTORIES // 2 :])]
    client.post("/recall/batch", json={"requests": batch}).raise_for_status()

    own = reload(client, bundle="own").json()
    assert (own["changed"], own["overlap"], own["compared"]) == (True, 1.0, NUM_HISTORIES)
    refused = reload(client, bundle="other")
    assert (refused.status_code, refused.json()["code"]) == (422, "reload_refused")
    assert "0.0% of their items in common with those in force, over 24 recorded" in refused.json()["message"]
    assert 'recall_reload_overlap{arm="main"} 0.0' in client.get("/metrics").text
    assert client.get("/arms").json()["arms"]["main"]["bundle"] == own["bundle"]
    said = run_recall("reload", "main", "--bundle", "alike", "--url", served.url, RECALL_ADMIN_KEY=ADMIN_KEY)
    assert "overlap 100.0% over 24 recorded histories" in said.err

    file = served.state / "golden.json"
    wait_for(lambda: len(read(file)) == NUM_HISTORIES, passing=(OSError,))
    assert file.stat().st_mode & 0o077 == 0
    assert "secret" not in file.read_text()
    assert {tuple(row) for row in read(file)} == {("day", "items")}
    assert sorted(row["items"] for row in read(file)) == sorted(histories)
    assert {row["day"] for row in read(file)} <= {datetime.now(UTC).date().isoformat(), read(file)[0]["day"]}

    target = served.state / "bundle"
    built = run_recall("build", "--checkpoint", checkpoints["recgpt"], "--output", target, "--golden-from", file)
    assert (built.status, "24 of 24 recorded histories are golden queries" in built.err) == (0, True)
    assert {(golden.user, len(golden.items)) for golden in open_bundle(target).golden.histories[32:]} == {(0, LENGTH)}


def read(file):
    return json.loads(file.read_text())["histories"]
