"""A stage that another run has trained is taken over, and is what would have been trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from model.recipes.schema import PlanSearch, Recipe, Stage
from model.records import Placement
from model.training.fit import fit
from model.training.stages import StageFolder, stage_key
from model.training.trainer import Trainer

NUM_ITEMS, NUM_USERS = 30, 40
PRETRAIN, PROMPTS = Stage(num_epochs=2, learning_rate=0.01), Stage(num_epochs=1, num_prompts=1, learning_rate=0.01)
TINY = Recipe(
    name="tiny",
    arm="recgpt",
    system="recgpt",
    stages=(PRETRAIN, PROMPTS),
    network={"dim": 8, "max_length": 10, "num_layers": 1, "dropout": 0.2, "user_dropout": 0.5},
    batch_users=16,
    warmup_steps=2,
    ema_decay=0.9,
    evaluate_every=1,
    plan=PlanSearch(num_prompts=(1,), placements=(Placement.NONE, Placement.ALL), min_gain=-1.0),
)


@pytest.fixture(scope="module")
def data():
    def circles(skip, length):
        return Ragged.of([[1 + (user + skip + n) % NUM_ITEMS for n in range(length)] for user in range(NUM_USERS)])

    train = circles(0, 8)
    counts = np.bincount(train.values, minlength=NUM_ITEMS + 1)[1:]
    catalogue = Catalogue(IdMap.of(range(NUM_ITEMS)), IdMap.of(range(NUM_USERS)), counts)
    return SequenceData("circles", catalogue, train, circles(8, 1), circles(9, 1), "leave-one-out")


@pytest.fixture
def kept(tmp_path):
    return StageFolder(tmp_path / "stages")


def same(first, second):
    return all(weights.equal(second.network.state_dict()[name]) for name, weights in first.network.state_dict().items())


def trained(kept):
    return len(list(kept.path.glob("*.safetensors")))


def test_what_is_taken_over_is_what_would_have_been_trained(data, kept):
    apart = fit(TINY, data, seed=5)
    fit(replace(TINY, stages=(PRETRAIN,)), data, seed=5, kept=kept)
    assert trained(kept) == 1
    together = fit(TINY, data, seed=5, kept=kept)
    assert trained(kept) == 2
    assert same(apart, together)
    assert (apart.plan, apart.provenance.metrics) == (together.plan, together.provenance.metrics)


def test_what_is_taken_over_is_not_trained_but_reported(data, kept, monkeypatch):
    first, again = [], []
    fit(TINY, data, kept=kept, on_epoch=first.append)
    monkeypatch.setattr(Trainer, "_run_stage", lambda *_: pytest.fail("trained again"))
    checkpoint = fit(TINY, data, kept=kept, on_epoch=again.append)
    assert again == first
    assert checkpoint.provenance.training_seconds > sum(report.seconds for report in first)


def test_a_part_of_a_blend_is_the_training_of_its_own_section(data, kept):
    fism = replace(TINY, system="fism", network={"dim": 8, "max_length": 10}, stages=(PRETRAIN,), plan=PlanSearch())
    blend = replace(TINY, system="blend", stages=(), network={"max_length": 10}, parts=(TINY, fism))
    alone = fit(fism, data, seed=2, kept=kept)
    joined = fit(blend, data, seed=2, kept=kept)
    assert trained(kept) == 3
    assert same(alone, replace(joined, network=joined.network.parts[1]))


def test_parts_that_are_alike_do_not_come_out_the_same(data):
    part = replace(TINY, system="fism", network={"dim": 8, "max_length": 10}, stages=(PRETRAIN,), plan=PlanSearch())
    blend = replace(TINY, system="blend", stages=(), network={"max_length": 10}, parts=(part, part), plan=PlanSearch())
    first, second = fit(blend, data).network.parts
    assert not torch.equal(first.items.weight, second.items.weight)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": replace(TINY, batch_users=8)},
        {"recipe": replace(TINY, stages=(replace(PRETRAIN, num_epochs=3), PROMPTS))},
        {"number": 1},
        {"data_digest": "other"},
        {"seed": 1},
        {"device": "cuda"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_training_is_another_stage(change):
    facts = {"recipe": TINY, "number": 0, "data_digest": "data", "seed": 0, "device": "cpu"}
    assert stage_key(**facts) != stage_key(**facts | change)


def test_later_stages_and_plans_do_not_matter():
    plan = PlanSearch(num_prompts=(3,), placements=(Placement.TAIL,))
    second = replace(TINY, name="other", arm="one", stages=(PRETRAIN,), plan=plan)
    assert stage_key(TINY, 0, "data", 0, "cpu") == stage_key(second, 0, "data", 0, "cpu")


def test_a_stage_that_may_not_be_the_last_has_a_key_too():
    pretrain = replace(PRETRAIN, objective="pretrain")
    recipe = replace(TINY, system="s3rec", stages=(pretrain, PRETRAIN))
    assert stage_key(recipe, 0, "data", 0, "cpu") != stage_key(recipe, 1, "data", 0, "cpu")
