"""Training on every start of a history as a sample of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.recipes.schema import Recipe, Stage, Window
from model.training.batches import TrainingWindows
from model.training.trainer import Trainer

STILL = {"dim": 8, "max_length": 50, "dropout": 0.0}
RECIPE = Recipe(
    name="r",
    arm="a",
    system="sasrec",
    stages=(Stage(num_epochs=1),),
    network={**STILL, "num_layers": 2, "num_heads": 2},
    batch_users=7,
    warmup_steps=0,
)


def test_every_start_of_a_history_is_a_sample(tiny):
    samples = TrainingWindows.prefixes(tiny, 5)
    assert len(samples.rows) == len(tiny.train.values)
    longest = int(tiny.train.lengths.argmax())
    own = [row.tolist() for row, user in zip(samples.rows, samples.users, strict=True) if user == longest + 1]
    history = tiny.train[longest].tolist()
    # 5 inputs and the target at most, the newest
    assert own == [history[max(0, stop - 6) : stop] for stop in range(1, len(history) + 1)]


@pytest.mark.parametrize("system", ["sasrec", "gru4rec", "fism", "recgpt"])
def test_the_loss_of_all_prefixes_is_that_of_all_places(tiny, system):
    """A causal state does not see what follows it, so without dropout both say the same of the same weights."""
    layers = {"num_layers": 2, "num_heads": 2} if system in ("sasrec", "recgpt") else {}
    hidden = {"user_dropout": 1.0} if system == "recgpt" else {}
    recipe = replace(RECIPE, system=system, network={**STILL, **layers, **hidden})
    means = []
    for samples in ("windows", "prefixes"):
        trainer = Trainer(replace(recipe, samples=samples), tiny)
        trainer.network.train()
        total, count = 0.0, 0
        for batch in trainer.windows.batches(7, np.random.default_rng(0)):
            loss, number = trainer._loss(recipe.stages[0], replace(batch, window=1))
            total, count = total + float(loss.detach()) * number, count + number
        means.append((total / count, count))
    assert means[0][1] == means[1][1] == len(tiny.train.values)
    assert means[0][0] == pytest.approx(means[1][0], rel=2e-3)


def test_a_training_on_prefixes_ends(tiny):
    checkpoint = Trainer(replace(RECIPE, samples="prefixes"), tiny).fit()
    assert checkpoint.provenance.metrics
    assert all(torch.isfinite(weight).all() for weight in checkpoint.network.state_dict().values())


def test_a_system_that_draws_its_own_samples_refuses(tiny):
    comirec = replace(RECIPE, system="comirec", network=STILL, samples="prefixes")
    with pytest.raises(ValueError, match="comirec draws its own samples"):
        Trainer(comirec, tiny)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"samples": "starts"}, "it is windows or prefixes"),
        ({"samples": "prefixes", "window": Window(length=3)}, "a prefix has one target"),
        ({"samples": "prefixes", "equal_positions": True}, "a prefix has one target"),
        ({"samples": "prefixes", "stages": (Stage(num_epochs=1, num_prompts=1),)}, "no stage of prompts"),
    ],
)
def test_what_does_not_go_together_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        replace(RECIPE, **change)
