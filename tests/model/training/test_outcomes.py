"""Heads of outcomes: trained behind a finished network, chosen on validation, kept with the checkpoint.

Everybody watches items of both halves of the catalogue in turn and likes those of the second half alone.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue, IdMap, Ragged
from model.checkpoint import Checkpoint, CheckpointError
from model.data.marks import Marks
from model.data.sequences import SequenceData
from model.recipes.schema import PlanSearch, Recipe, Stage
from model.records import PromptPlan
from model.training.fit import fit
from model.training.outcomes import HeadTrainer, fit_outcomes
from model.training.refit import refit

NUM_ITEMS, NUM_USERS, LENGTH = 60, 150, 10
RECIPE = Recipe(
    name="tiny",
    arm="sasrec",
    system="sasrec",
    stages=(Stage(num_epochs=1, learning_rate=0.01),),
    network={"dim": 16, "max_length": 10, "num_layers": 1, "dropout": 0.0},
    batch_users=32,
    warmup_steps=5,
    ema_decay=0.0,
    metric="recall@10",
    plan=PlanSearch(cutoff=10),
)


def second_half(part):
    return part.values > NUM_ITEMS // 2


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    rows = np.array([rng.permutation(NUM_ITEMS)[: LENGTH + 4] + 1 for _ in range(NUM_USERS)])
    train, valid, test = map(Ragged.of, (rows[:, :LENGTH], rows[:, LENGTH:-2], rows[:, -2:]))
    counts = np.bincount(train.values, minlength=NUM_ITEMS + 1)[1:].astype(np.int64)
    catalogue = Catalogue(IdMap.of(range(NUM_ITEMS)), IdMap.of(range(NUM_USERS)), counts)
    liked, every = Marks(*map(second_half, (train, valid, test))), Marks(*(p.values > 0 for p in (train, valid, test)))
    return SequenceData("halves", catalogue, train, valid, test, "given", outcomes={"long_view": every, "like": liked})


@pytest.fixture(scope="module")
def checkpoint(data):
    return fit(RECIPE, data)


def test_a_head_finds_more_of_what_ends_with_its_outcome(checkpoint):
    like = checkpoint.outcomes.fits[checkpoint.outcomes.names.index("like")]
    assert (like.metric, like.num_events > 0, like.epochs > 0) == ("recall@10", True, True)
    assert like.asked > 1.3 * like.plain


def test_the_outcome_of_every_event_is_the_plain_answer(checkpoint):
    plain = np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32)
    assert checkpoint.outcomes.fits[0].epochs == 0
    assert (checkpoint.outcomes.vectors("long_view", plain) == plain).all()
    assert not (checkpoint.outcomes.vectors("like", plain) == plain).any()


def test_the_network_is_the_one_without_outcomes(checkpoint, data):
    unmarked = fit(RECIPE, replace(data, outcomes={}))
    assert unmarked.outcomes is None
    ours, theirs = checkpoint.network.state_dict(), unmarked.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_same_seed_gives_the_same_heads(checkpoint, data):
    again = fit_outcomes(checkpoint.network, data, PromptPlan(), "recall@10", 0)
    assert (again.up == checkpoint.outcomes.up).all()
    assert again.fits == checkpoint.outcomes.fits


def test_targets_are_those_of_the_next_events_that_ended_so(checkpoint, data):
    flags = data.outcomes["like"].train
    queries, targets = HeadTrainer(checkpoint.network, data, PromptPlan(), 0).samples(flags)
    assert queries.shape == (flags.sum(), 1, 16)
    assert (targets > 0).any(1).all()
    assert {*targets.unique().tolist()} == {0, *np.unique(data.train.values[flags]).tolist()}


def test_heads_are_saved_with_the_checkpoint(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "c")
    read = Checkpoint.load(tmp_path / "c")
    assert read.outcomes.fits == checkpoint.outcomes.fits
    assert (read.outcomes.shift == checkpoint.outcomes.shift).all()


def test_a_damaged_head_is_refused(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "c")
    (tmp_path / "c" / "outcomes.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"outcomes.safetensors missing"):
        Checkpoint.load(tmp_path / "c")


def test_a_plan_asks_for_known_outcomes_alone(checkpoint):
    with pytest.raises(ValueError, match="'follow' is no outcome of it; there are long_view, like"):
        replace(checkpoint, plan=replace(checkpoint.plan, outcomes=(("follow", 1.0),)))


def test_a_refit_has_the_epochs_that_were_chosen(checkpoint, data):
    again = refit(RECIPE, data, checkpoint)
    pairs = zip(again.outcomes.fits, checkpoint.outcomes.fits, strict=True)
    assert all((a.name, a.epochs) == (b.name, b.epochs) and a.num_events > b.num_events for a, b in pairs)
    with pytest.raises(ValueError, match="knows the outcome long_view, which these data do not mark"):
        refit(RECIPE, replace(data, outcomes={}), checkpoint)
