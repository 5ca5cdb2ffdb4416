"""Losses against one drawn item, by hand; and REMI's weights on the negatives of the softmax, against autograd."""

import math

import pytest
import torch

from model.training.losses import draw_others, sampled_bce, sampled_bpr

# two items, so that the other one is known: the query scores them 2 and -1
QUERY, TABLE, TARGET = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 5.0], [-1.0, 7.0]]), torch.tensor([0])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_bce_by_hand():
    expected = -math.log(sigmoid(2)) - math.log(1 - sigmoid(-1))
    assert sampled_bce(QUERY, TABLE, TARGET).item() == pytest.approx(expected)


def test_bpr_by_hand():
    assert sampled_bpr(QUERY, TABLE, TARGET).item() == pytest.approx(-math.log(sigmoid(2 - -1)))


@pytest.mark.parametrize("loss", [sampled_bce, sampled_bpr])
def test_the_loss_is_a_mean_over_targets(loss):
    twice = loss(QUERY.expand(2, 2), TABLE, torch.tensor([0, 1]))
    alone = [loss(QUERY, TABLE, torch.tensor([target])) for target in (0, 1)]
    torch.testing.assert_close(twice, torch.stack(alone).mean())


@pytest.mark.parametrize("loss", [sampled_bce, sampled_bpr])
def test_the_highest_query_vector_scores_an_item(loss):
    both = torch.stack([QUERY, QUERY.new_tensor([[0.0, 1.0]])], 1)  # the second scores the items 5 and 7
    torch.testing.assert_close(loss(both, TABLE, TARGET), loss(both[:, 1], TABLE, TARGET))


def test_others_are_uniform_and_never_the_target():
    targets = torch.arange(5).repeat(4000)
    drawn = draw_others(targets, 5)
    counts = torch.stack([drawn[targets == target].bincount(minlength=5) for target in range(5)])
    assert counts.diag().tolist() == [0] * 5
    assert (counts + 1000 * torch.eye(5) - 1000).abs().max() < 150
