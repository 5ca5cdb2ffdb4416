"""A prepared data set of circles, small enough to train on in a moment, and a recipe for it."""

import numpy as np
import pytest

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from recall.reproduction import runner

NUM_ITEMS, NUM_USERS = 30, 40
RECIPE = """
best:
  common: {network: {dim: 8, max_length: 10}, batch_users: 16, warmup_steps: 2, ema_decay: 0.0, evaluate_every: 1}
  popularity: {network: {dim: 1}, stages: []}
  sasrec: {network: {num_layers: 1}, stages: [{num_epochs: 2}]}
  recgpt:
    network: {num_layers: 1}
    stages: [{num_epochs: 1}, {num_epochs: 1, num_prompts: 1}]
    plan: {num_prompts: [1], placements: [all], num_steps: [2]}
  comirec: {network: {num_interests: 2}, stages: [{num_epochs: 1}]}
  wrong: {system: sasrec, network: {num_heads: 3}, stages: [{num_epochs: 1}]}
paper:
  popularity: {network: {dim: 1}, stages: []}
"""


def circles(skip, length):
    return [[1 + (user + skip + n) % NUM_ITEMS for n in range(length)] for user in range(NUM_USERS)]


@pytest.fixture(scope="session")
def circle_data():
    """One user has one item, so no target; one has the same item again and again; ids have gaps."""
    train, valid, test = circles(0, 8), circles(8, 1), circles(9, 1)
    train[0], valid[0], test[0] = [5], [], []
    train[1] = [7] * 8
    counts = np.bincount(np.concatenate(train), minlength=NUM_ITEMS + 1)[1:]
    catalogue = Catalogue(IdMap.of(range(100, 700, 20)), IdMap.of(range(NUM_USERS)), counts)
    return SequenceData("circles", catalogue, *map(Ragged.of, (train, valid, test)), "leave-one-out")


@pytest.fixture(scope="session")
def folder(circle_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "circles"
    circle_data.save(folder)
    return folder


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    """The data set `circles` has its recipe in a file of its own."""
    path = tmp_path / "circles.yaml"
    path.write_text(RECIPE)
    monkeypatch.setitem(runner.RECIPES, "circles", str(path))
    runner.recipe_for.cache_clear()
    return path
