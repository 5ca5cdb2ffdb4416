"""Every baseline learns what it can: cycles of items for those that read the order, tastes for the others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from model.recipes.schema import PlanSearch, Recipe, Stage
from model.training.fit import fit as train
from model.training.trainer import Trainer

NUM_ITEMS, NUM_USERS, LENGTH = 40, 120, 8
# epochs; what hidden items teach comes slowly
SEQUENTIAL = {"stamp": 10, "gru4rec": 10, "narm": 10, "caser": 10, "bert4rec": 40, "sasrec": 10, "s3rec": 10}


def make_data(histories, targets):
    """The same targets for validation and test; the categories of an item are its parity and 2."""
    parts = [Ragged.of(rows) for rows in (histories, targets, targets)]
    counts = np.bincount(parts[0].values, minlength=NUM_ITEMS + 1)[1:]
    categories = Ragged.of([[row % 2, 2] for row in range(NUM_ITEMS)])
    catalogue = Catalogue(IdMap.of(range(NUM_ITEMS)), IdMap.of(range(len(histories))), counts, categories)
    return SequenceData("toy", catalogue, *parts, "leave-one-out")


@pytest.fixture(scope="module")
def cycles():
    """The successor of an item is the next number."""
    starts = np.random.default_rng(0).integers(NUM_ITEMS, size=NUM_USERS).tolist()
    rows = [[(start + i) % NUM_ITEMS + 1 for i in range(LENGTH + 1)] for start in starts]
    return make_data([row[:-1] for row in rows], [row[-1:] for row in rows])


@pytest.fixture(scope="module")
def tastes():
    """Users like one quarter of the catalogue, in any order; the lower half of each quarter is more popular."""
    rng = np.random.default_rng(0)
    weights = np.repeat([0.15, 0.05], 5)
    liked = [rng.choice(10, LENGTH + 1, replace=False, p=weights / weights.sum()) for _ in range(NUM_USERS)]
    rows = [(row + 10 * (user % 4) + 1).tolist() for user, row in enumerate(liked)]
    return make_data([row[:-1] for row in rows], [row[-1:] for row in rows])


def recipe_of(system, *stages, **changes):
    network = {"max_length": 10, "dropout": 0.1} | ({} if system == "popularity" else {"dim": 32})
    recipe = Recipe(name="tiny", arm=system, system=system, stages=stages, network=network)
    settings = {"batch_users": 16, "warmup_steps": 5, "ema_decay": 0.8, "metric": "recall@5"}
    return replace(recipe, plan=PlanSearch(cutoff=5), **settings | changes)


def epochs(num_epochs, **settings):
    return Stage(num_epochs=num_epochs, learning_rate=0.005, **settings)


def recall(checkpoint):
    return checkpoint.provenance.metrics["recall@5"]


@pytest.fixture(scope="module")
def popular(cycles):
    return recall(train(recipe_of("popularity"), cycles))


@pytest.mark.parametrize(("system", "num_epochs"), SEQUENTIAL.items())
def test_order_is_learnt(cycles, popular, system, num_epochs):
    losses = []
    recipe = recipe_of(system, epochs(num_epochs), evaluate_every=5)
    checkpoint = Trainer(recipe, cycles).fit(lambda report: losses.append(report.loss))
    assert losses[-1] < 0.8 * losses[0]
    assert recall(checkpoint) > 0.3 + popular


@pytest.mark.parametrize("loss", ["softmax", "bce", "bpr"])
def test_tastes_are_learnt(tastes, loss):
    learnt = train(recipe_of("bpr", epochs(20), loss=loss, evaluate_every=5), tastes)
    assert recall(learnt) > 0.5 + recall(train(recipe_of("popularity"), tastes))


def test_tastes_are_learnt_from_parts_of_a_set(tastes):
    losses = []
    recipe = recipe_of("deepsets", epochs(20), evaluate_every=5)
    learnt = Trainer(recipe, tastes).fit(lambda report: losses.append(report.loss))
    assert losses[-1] < 0.9 * losses[0]
    assert recall(learnt) > 0.5 + recall(train(recipe_of("popularity"), tastes))


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_order_is_learnt_from_drawn_items(cycles, popular, loss):
    assert recall(train(recipe_of("sasrec", epochs(16), loss=loss, evaluate_every=8), cycles)) > 0.3 + popular


def test_popularity_is_counted_in_no_epochs(tastes):
    reports = []
    checkpoint = Trainer(recipe_of("popularity"), tastes).fit(reports.append)
    assert not reports
    expected = torch.from_numpy(tastes.catalogue.counts).log1p()
    torch.testing.assert_close(checkpoint.network.item_vectors()[:, 0].double(), expected, check_dtype=False)


@pytest.mark.parametrize(
    ("system", "stages", "reason"),
    [("popularity", [epochs(1)], "popularity is not trained; its recipe has stages: \\[\\]"), ("bpr", [], "bpr needs")],
)
def test_stages_must_fit_the_system(tastes, system, stages, reason):
    with pytest.raises(ValueError, match=reason):
        Trainer(recipe_of(system, *stages), tastes)


def test_pretraining_is_not_measured_and_hands_on_its_last_weights(cycles):
    stage, seen = epochs(3, objective="pretrain"), []
    trainer = Trainer(recipe_of("s3rec", stage, epochs(1), evaluate_every=1, patience=1), cycles)
    result = trainer._run_stage(0, lambda report: seen.append((report.metric, trainer._snapshot())))
    assert [metric for metric, _ in seen] == [None] * 3
    last = seen[-1][1]
    assert all(last[name].equal(weights) for name, weights in result.weights.items())


def test_pretraining_learns(cycles, popular):
    recipe = recipe_of("s3rec", epochs(24, objective="pretrain"), epochs(8))
    losses = []
    checkpoint = Trainer(recipe, cycles).fit(lambda report: losses.append(report.loss))
    assert losses[23] < 0.9 * losses[0]
    assert recall(checkpoint) > 0.3 + popular


def test_pretraining_is_refused_where_there_is_none(cycles):
    with pytest.raises(ValueError, match="SASRec has no pre-training of its own"):
        train(recipe_of("sasrec", epochs(1, objective="pretrain"), epochs(1)), cycles)
