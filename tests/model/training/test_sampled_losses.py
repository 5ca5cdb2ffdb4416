"""Losses against one drawn item, by hand; and REMI's weights on the negatives of the softmax, against autograd."""

import math

import pytest
import torch
from torch.nn import functional as F

from model.training.losses import CHUNK_ROWS, catalogue_cross_entropy, draw_others, sampled_bce, sampled_bpr

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


def weighted(queries, table, targets, hardness):
    """REMI: the sum of exp(s) over the negatives, each times exp(hardness s) / mean of exp(hardness s)."""
    scores = queries @ table.T
    scores = (scores.amax(1) if scores.dim() == 3 else scores).double()
    own = scores.gather(1, targets[:, None])[:, 0].exp()
    negatives = scores[F.one_hot(targets, len(table)) == 0].view(len(scores), -1)
    weights = (hardness * negatives).exp()
    total = (weights / weights.mean(1, keepdim=True) * negatives.exp()).sum(1)
    return -(own / (own + total)).log().mean().float()


@pytest.mark.parametrize("shape", [(7,), (CHUNK_ROWS["cpu"] + 9,), (9, 3)], ids=str)
@pytest.mark.parametrize("hardness", [0.0, 0.7, 3.0])
def test_hard_negatives_weigh_more(shape, hardness):
    generator = torch.manual_seed(0)
    queries = torch.randn(*shape, 16, generator=generator, requires_grad=True)
    table = torch.randn(80, 16, generator=generator, requires_grad=True)
    parts = queries, table, torch.randint(80, shape[:1], generator=generator), hardness
    found, expected = catalogue_cross_entropy(*parts), weighted(*parts)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)
    ours, wanted = (torch.autograd.grad(loss, [queries, table]) for loss in (found, expected))
    for one, other in zip(ours, wanted, strict=True):
        assert (one - other).norm() < 0.05 * other.norm()
