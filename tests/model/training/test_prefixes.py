"""Training on every start of a history as a sample of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.batch import Batch
from model.catalogue import Ragged
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


def test_what_follows_a_target_is_in_its_window(tiny):
    samples, expected, drawn = TrainingWindows.prefixes(tiny, 5, window=3), [], []
    for user in range(1, len(tiny.train) + 1):
        history = tiny.train[user - 1].tolist()
        expected += [(history[max(0, e - 5) : e], [*history[e : e + 3], 0, 0][:3]) for e in range(len(history))]
    for batch in samples.batches(7, np.random.default_rng(0)):
        inputs, targets = replace(batch, window=3).without_last()
        told = [row[:length].tolist() for row, length in zip(inputs.rows, inputs.lengths, strict=True)]
        drawn += zip(told, targets.tolist(), strict=True)
    assert sorted(drawn) == sorted(expected)


def test_prefixes_whose_target_was_seen_are_left_out_where_asked(tiny):
    histories = [[5, 6, 5, 7, 7, 8], [9, 9], [3]]
    repeating = replace(tiny, train=Ragged.of(histories))
    samples = TrainingWindows.prefixes(repeating, 50, repeats=False)
    assert [row.tolist() for row in samples.rows] == [[5], [5, 6], [5, 6, 5, 7], [5, 6, 5, 7, 7, 8], [9], [3]]
    # an item that lies before the window is new to it
    rows = TrainingWindows.prefixes(repeating, 1, repeats=False).rows
    assert [row.tolist() for row in rows] == [[5], [5, 6], [6, 5], [5, 7], [7, 8], [9], [3]]


def test_what_was_seen_is_left_out_of_the_loss(tiny):
    """Against a softmax that is written out, and only where it is asked for."""
    recipe = replace(RECIPE, samples="prefixes", seen_in_loss=False)
    trainer = Trainer(recipe, tiny)
    trainer.network.train()
    batch = next(iter(trainer.windows.batches(7, np.random.default_rng(0))))
    with torch.no_grad():
        loss, count = trainer._loss(recipe.stages[0], batch)
        queries, targets = trainer.network.last_pairs(batch)
        whole = trainer._ranking_loss(recipe.stages[0], queries, targets)
        scores = queries @ trainer.network.item_vectors().T
        for row, length, own in zip(batch.rows, batch.lengths, scores, strict=True):
            own[row[: length - 1] - 1] = -torch.inf
    expected = F.cross_entropy(scores, targets[:, 0] - 1)
    assert count == len(batch.rows)
    assert float(loss) == pytest.approx(float(expected), rel=2e-3)
    assert float(loss) < float(whole)  # the same queries, with more items in the sum


@pytest.mark.parametrize("window", [Window(), Window(length=3, decay=0.5)], ids=["next", "window"])
@pytest.mark.parametrize("system", ["sasrec", "gru4rec", "fism", "recgpt"])
def test_the_loss_of_all_prefixes_is_that_of_all_places(tiny, system, window):
    """A causal state does not see what follows it, so without dropout both say the same of the same weights."""
    layers = {"num_layers": 2, "num_heads": 2} if system in ("sasrec", "recgpt") else {}
    hidden = {"user_dropout": 1.0} if system == "recgpt" else {}
    recipe = replace(RECIPE, system=system, network={**STILL, **layers, **hidden}, window=window)
    means = []
    for samples in ("windows", "prefixes"):
        trainer = Trainer(replace(recipe, samples=samples), tiny)
        trainer.network.train()
        total, count = 0.0, 0
        for batch in trainer.windows.batches(7, np.random.default_rng(0)):
            loss, number = trainer._loss(recipe.stages[0], replace(batch, window=window.length))
            total, count = total + float(loss.detach()) * number, count + number
        means.append((total / count, count))
    assert means[0][1] == means[1][1] == len(tiny.train.values)
    assert means[0][0] == pytest.approx(means[1][0], rel=2e-3)


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec", "fism", "recgpt"])
def test_the_last_place_alone_is_that_of_all_places(make_network, kind):
    layers = {"num_layers": 2, "num_heads": 2} if kind in ("sasrec", "recgpt") else {}
    network = make_network(kind, dropout=0.0, **layers).train(kind != "recgpt")  # which hides users while it trains
    batch = Batch.of([[5, 6, 7, 8], [9], [3, 4], [8, 5, 9]], [1, 2, 3, 4], 12)
    queries, targets = network.last_pairs(batch)
    pairs, rows = network.training_pairs(batch)
    last = batch.lengths.cumsum(0) - 1  # pairs lie history by history, place by place
    assert targets.tolist() == rows[last].tolist() == [[8], [9], [4], [9]]
    torch.testing.assert_close(queries, pairs[last], atol=1e-5, rtol=1e-5)


def test_the_last_place_alone_has_the_gradients_of_all_places(make_network):
    network = make_network("recgpt", num_layers=2, num_heads=2, dropout=0.0)
    batch = Batch.of([[5, 6, 7, 8], [9], [3, 4]], [1, 2, 3], 12)
    gradients = []
    for queries in (network.last_pairs(batch)[0], network.training_pairs(batch)[0][batch.lengths.cumsum(0) - 1]):
        network.zero_grad()
        queries.square().sum().backward()
        gradients.append({name: weight.grad for name, weight in network.named_parameters()})
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_attention_drops_at_the_last_place_too(make_network):
    network = make_network("recgpt", dropout=0.0, attention_dropout=0.5, user_dropout=0.0).train()
    batch = Batch.of([[5, 6, 7, 8]], [1], 12)
    assert not network.last_pairs(batch)[0].equal(network.last_pairs(batch)[0])


def test_padding_is_no_item(tiny):
    for batch in TrainingWindows.prefixes(tiny, 5).batches(7, np.random.default_rng(0)):
        assert not batch.rows[~batch.real].any()
        assert batch.rows[batch.real].all()


@pytest.mark.parametrize("seen_in_loss", [True, False])
def test_a_training_on_prefixes_ends(tiny, seen_in_loss):
    checkpoint = Trainer(replace(RECIPE, samples="prefixes", seen_in_loss=seen_in_loss), tiny).fit()
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
        ({"samples": "prefixes", "equal_positions": True}, "every prefix weighs the same"),
        ({"samples": "prefixes", "stages": (Stage(num_epochs=1, num_prompts=1),)}, "no stage of prompts"),
        ({"seen_in_loss": 0}, "it is true or false"),
        ({"seen_in_loss": False}, "goes with samples: prefixes"),
        ({"seen_in_loss": False, "samples": "prefixes", "window": Window(length=3, decay=0.5)}, "the next item alone"),
        ({"seen_in_loss": False, "samples": "prefixes", "loss": "bce"}, "and the softmax"),
    ],
)
def test_what_does_not_go_together_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        replace(RECIPE, **change)
