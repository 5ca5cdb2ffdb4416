"""Soft prompts explained over HTTP: the items that a generated mean of items is made of, as offline."""

from dataclasses import replace

import httpx
import numpy as np
import pytest

from index.bundle.build import build_bundle
from model.checkpoint import Checkpoint
from model.encoder import UserEncoder
from model.records import History, Placement, PromptForm, PromptPlan, ServingPlan

# warm: weights of the test's network are so large that a softmax of its scores has one item
PLAN = ServingPlan(PromptPlan(1, Placement.TAIL, 2, PromptForm.SOFT, 40.0, (1.0, 0.5)))


@pytest.fixture(scope="module")
def checkpoint(checkpoints):
    return replace(Checkpoint.load(checkpoints["recgpt"]), plan=PLAN)


@pytest.fixture(scope="module")
def client(launch, bundles, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    checkpoint.save(folder / "checkpoint")
    build_bundle(folder / "checkpoint", folder / "bundle")
    patient = ("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000")
    arms = ("--arm", f"soft={folder / 'bundle'}", "--arm", f"comirec={bundles['comirec']}")
    with (
        launch(*arms, *patient, "--http-workers", "2") as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        yield client


def ask(client, arm="soft", **body):
    reply = client.post(f"/recall/{arm}", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_soft_prompt_names_its_nearest_items_with_weights(client, checkpoint, tiny, known):
    answer = ask(client, history=known[3:9], explain=True)
    nearest = UserEncoder(checkpoint).nearest(History(tuple(range(4, 10))))
    assert answer["nearest"]["items"] == [tiny.catalogue.items.external(rows) for rows in nearest.rows.tolist()]
    np.testing.assert_allclose(answer["nearest"]["weights"], nearest.weights, atol=1e-4)
    assert [items[0] for items in answer["nearest"]["items"]] == answer["prompts"]
    assert 0 < min(map(min, answer["nearest"]["weights"])) < max(map(max, answer["nearest"]["weights"])) < 1


def test_a_cached_vector_has_the_same_reasons_and_so_has_a_batch(client, known):
    body = {"history": known[30:44], "explain": True}
    computed, cached = ask(client, **body), ask(client, **body)
    assert (computed["cache"], cached["cache"]) == ("miss", "hit")
    assert computed["nearest"] == cached["nearest"]
    batch = client.post("/recall/batch", json={"requests": [body, {**body, "explain": False}], "arm": "soft"})
    first, second = batch.json()["responses"]
    assert (first["nearest"], "nearest" in second) == (computed["nearest"], False)


def test_where_no_prompt_is_soft_nothing_is_told_of_it(client, known):
    assert "nearest" not in ask(client, "comirec", history=known[3:9], explain=True)
    assert "nearest" not in ask(client, history=known[3:9])
