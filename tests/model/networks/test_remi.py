"""ComiRec's options from REMI: what they compute, and that they reach the training."""

import pytest
import torch

from model.networks.comirec import spread
from model.recipes.files import Recipe, Stage
from model.training.losses import catalogue_cross_entropy
from model.training.trainer import check_recipe, ranking_loss

VARIANTS = pytest.mark.parametrize("variant", ["sa", "dr"])


def test_spread_is_the_squared_variance_over_real_positions():
    weights = torch.tensor([[[0.5, 1.0], [0.3, 0.0], [0.2, 0.0], [0.0, 0.0]]])
    real = torch.tensor([[True, True, True, False]])
    expected = sum(weights[0, :3, k].var(unbiased=False) ** 2 for k in range(2))
    torch.testing.assert_close(spread(weights, real), expected)


def test_spread_is_a_mean_over_histories():
    weights, real = torch.rand(3, 5, 2), torch.ones(3, 5, dtype=torch.bool)
    alone = [spread(weights[i : i + 1], real[:1]) for i in range(3)]
    torch.testing.assert_close(spread(weights, real), torch.stack(alone).mean())


@VARIANTS
def test_regularised_routing_adds_to_the_loss_once(make_network, make_batch, variant):
    network = make_network("comirec", variant=variant, routing_regularisation=2.0, dropout=0.0, prefixes_per_user=20)
    network.train().training_pairs(make_batch(4, 7))
    extra = network.extra_loss()
    network.config = make_network("comirec", variant=variant, routing_regularisation=4.0).config
    network.training_pairs(make_batch(4, 7))
    assert extra > 0
    assert network.extra_loss() > extra
    assert network.extra_loss() == 0


def test_regularised_routing_spreads_the_attention(make_network, make_batch):
    network = make_network("comirec", routing_regularisation=1.0, dropout=0.0, prefixes_per_user=20).train()
    optimizer, found = torch.optim.Adam(network.parameters(), 0.05), []
    for _ in range(20):
        network.training_pairs(make_batch(4, 7))
        found.append(network.extra_loss())
        optimizer.zero_grad()
        found[-1].backward()
        optimizer.step()
    assert found[-1] < 0.2 * found[0]


@pytest.mark.parametrize("mode", [True, False])
def test_without_the_option_nothing_is_added(make_network, make_batch, mode):
    network = make_network("comirec").train(mode)
    network.training_pairs(make_batch(4, 7))
    assert network.extra_loss() == 0


def test_hard_negatives_reach_the_loss(make_network, make_batch):
    network = make_network("comirec", hard_negatives=1.5)
    queries, targets = network.training_pairs(make_batch(4, 7))
    expected = catalogue_cross_entropy(queries, network.item_vectors(), targets - 1, 1.5)
    assert ranking_loss(network, queries, targets - 1) == expected
    assert expected > catalogue_cross_entropy(queries, network.item_vectors(), targets - 1)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_hard_negatives_need_the_softmax(make_network, loss):
    recipe = Recipe(name="tiny", arm="comirec", system="comirec", stages=(Stage(num_epochs=1),), loss=loss)
    with pytest.raises(ValueError, match=f"hard_negatives weighs .* the recipe's loss is {loss}"):
        check_recipe(recipe, make_network("comirec", hard_negatives=0.5))
