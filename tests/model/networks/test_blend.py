"""A blend's scores are the weighted sum of its parts'; it is trained part by part, and its weights on validation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue, IdMap, Ragged
from model.checkpoint import Checkpoint
from model.data.sequences import SequenceData
from model.encoder import UserEncoder
from model.recipes.files import load_recipe
from model.recipes.schema import PlanSearch, Recipe, Stage
from model.records import History, Placement, PromptPlan
from model.training.fit import fit
from model.training.trainer import with_epochs

PARTS = [{"system": "recgpt", "network": {"dim": 8}}, {"system": "fism", "network": {"dim": 16}}]
TWO_STEPS = PromptPlan(1, Placement.ALL, 2)


@pytest.fixture
def blend(make_network):
    return make_network("blend", parts=PARTS)


@torch.no_grad()
def scores(network, batch):
    return network.queries(batch, PromptPlan()).vectors @ network.item_vectors().T  # (B, Q, N)


def test_scores_are_the_weighted_sum(blend, make_batch):
    batch = make_batch(3, 0, 12)
    blend.weights[1] = 2.0
    first, second = (scores(part, batch) for part in blend.parts)
    torch.testing.assert_close(scores(blend, batch), first + 2 * second, atol=1e-5, rtol=1e-5)


def test_a_part_without_prompts_repeats_its_vector_in_every_step(blend, make_batch):
    batch = make_batch(5, 2)
    answer = blend.queries(batch, TWO_STEPS)
    assert answer.vectors.shape == (2, 2, 24)
    assert answer.vectors[:, 0, 8:].equal(answer.vectors[:, 1, 8:])
    assert answer.prompts.equal(blend.parts[0].queries(batch, TWO_STEPS).prompts)


def test_batched_equals_single_to_the_bit(blend, make_checkpoint):
    encoder = UserEncoder(make_checkpoint(blend))
    histories = [History((1, 2, 3), 1), History(()), History(tuple(range(1, 13)), 2), History((9,) * 5)]
    together = encoder.encode(histories).vectors
    for row, history in zip(together, histories, strict=True):
        assert np.array_equal(row, encoder.encode([history]).vectors[0])


def test_a_checkpoint_keeps_parts_and_weights(blend, make_checkpoint, make_batch, tmp_path):
    blend.weights[1] = 0.5
    make_checkpoint(blend).save(tmp_path)
    again = Checkpoint.load(tmp_path).network.eval()
    assert scores(again, make_batch(4)).equal(scores(blend, make_batch(4)))


def test_two_generating_parts_are_refused(make_network):
    with pytest.raises(ValueError, match="one at most that generates"):
        make_network("blend", parts=PARTS[:1] * 2)


def test_no_parts_are_refused(make_network):
    with pytest.raises(ValueError, match="one part at least"):
        make_network("blend", parts=[])
    with pytest.raises(ValueError, match="blend lacks parts"):
        make_network("blend")


def test_prompts_without_a_part_that_generates_are_refused(make_network, make_batch):
    network = make_network("blend", parts=PARTS[1:])
    with pytest.raises(ValueError, match="no part of this blend generates"):
        network.queries(make_batch(3), TWO_STEPS)


def test_a_part_with_several_interests_is_refused(make_network, make_batch):
    network = make_network("blend", parts=[{"system": "comirec", "network": {"dim": 8}}])
    with pytest.raises(ValueError, match="4 vectors a user"):
        network.queries(make_batch(3), PromptPlan())


def test_it_is_not_trained_as_a_whole(blend, make_batch):
    with pytest.raises(ValueError, match="one by one"):
        blend.training_pairs(make_batch(3))


NUM_ITEMS, NUM_USERS = 30, 90


@pytest.fixture(scope="module")
def cycles():
    """The successor of item i is i + 1."""
    starts = np.random.default_rng(0).integers(0, NUM_ITEMS, NUM_USERS)
    rows = [[(start + i) % NUM_ITEMS + 1 for i in range(8)] for start in starts]
    catalogue = Catalogue(IdMap.of(range(NUM_ITEMS)), IdMap.of(range(NUM_USERS)), np.ones(NUM_ITEMS, dtype=np.int64))
    parts = [Ragged.of(row[cut] for row in rows) for cut in (slice(0, 6), slice(6, 7), slice(7, 8))]
    return SequenceData("cycles", catalogue, *parts, protocol="leave-one-out")


def part(system, **settings):
    return Recipe(name="t", arm=system, system=system, network={"dim": 8, "dropout": 0.0, "max_length": 10}, **settings)


@pytest.fixture(scope="module")
def recipe():
    stages = (Stage(num_epochs=3, learning_rate=0.02),)
    parts = (part("recgpt", stages=stages), part("fism", stages=stages))
    plan = PlanSearch(part_weights=(0.0, 1.0))
    return Recipe(name="t", arm="recgpt", system="blend", stages=(), parts=parts, plan=plan, network={"max_length": 10})


def test_parts_are_trained_in_turn_and_reported_as_stages(recipe, cycles):
    seen = []
    checkpoint = fit(recipe, cycles, on_epoch=lambda report: seen.append((report.stage, report.epoch)))
    assert seen == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    assert checkpoint.network.kind == "blend"
    assert checkpoint.provenance.metrics["ndcg@10"] > 0.3


def test_parts_that_are_alike_do_not_come_out_the_same(recipe, cycles):
    twice = replace(recipe, parts=recipe.parts[1:] * 2)
    first, second = fit(twice, cycles).network.parts
    assert not first.item_vectors().equal(second.item_vectors())


def test_a_part_that_only_harms_gets_the_least_weight(recipe, cycles):
    untrained = replace(recipe.parts[0], stages=(Stage(num_epochs=1, learning_rate=1e-9),))
    parts, plan = (recipe.parts[1], untrained), PlanSearch(part_weights=(0.0, 99.0))
    blend = fit(replace(recipe, parts=parts, plan=plan), cycles)
    assert blend.network.weights.tolist() == [1.0, 0.0]


def test_the_same_seed_gives_the_same_blend(recipe, cycles):
    first, second = (fit(recipe, cycles, seed=3).network.state_dict() for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_part_has_from_its_section_what_it_does_not_say(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "recgpt:\n  system: blend\n  stages: []\n  batch_users: 7\n  network: {dropout: 0.3, max_length: 9}\n  parts:\n"
        "    - {system: recgpt, stages: [{num_epochs: 2}], network: {dim: 8}}\n"
        "    - {system: fism, stages: [{num_epochs: 3}], batch_users: 9}\n"
    )
    recipe = load_recipe(str(path), "recgpt")
    assert [p.batch_users for p in recipe.parts] == [7, 9]
    assert recipe.network == {"max_length": 9}
    assert recipe.parts[0].network == {"max_length": 9, "dim": 8}
    assert [stage.num_epochs for stage in with_epochs(recipe, 2).all_stages] == [2, 2]


def test_parts_without_a_blend_are_refused(recipe):
    with pytest.raises(ValueError, match="only a blend"):
        replace(recipe, system="sasrec")
