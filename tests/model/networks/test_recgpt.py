"""The states of RecGPT against its formulas, and what may and may not change them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.generation.tokens import Tokens
from model.networks import build_network


@pytest.fixture(scope="module")
def network(make_network):
    return make_network(seed=7)


def tokens(rows, segments=None, positions=None):
    parts = (rows, segments or [0] * len(rows), positions or list(range(len(rows))))
    return Tokens(*(torch.tensor([part]) for part in parts))


def states(network, *parts, user=0):
    with torch.no_grad():
        return network.states(tokens(*parts), torch.tensor([user]))[0].numpy()


def attend(block, x):
    """Softmax attention over the past, one head and one token at a time."""
    D, W = x.shape[1], x.shape[1] // block.attention.width.num_heads
    q, k, v = (x @ block.attention.qkv.weight.T + block.attention.qkv.bias).split(D, 1)
    rows = [
        torch.cat([F.softmax(k[: t + 1, h] @ q[t, h] / W**0.5, 0) @ v[: t + 1, h] for h in heads_of(D, W)])
        for t in range(len(x))
    ]
    return block.attention.out(torch.stack(rows))


def heads_of(D, W):
    return [slice(start, start + W) for start in range(0, D, W)]


def test_states_follow_the_formulas(network):
    rows, segments, positions, user = [61, 4, 9, 30], [0, 0, 1, 0], [0, 1, 2, 2], 3
    with torch.no_grad():
        x = network.items.weight[rows] + network.positions.weight[positions] + network.segments.weight[segments]
        x = network.norm(x + network.users.weight[user])
        for block in network.blocks:
            x = block.norm_attention(x + attend(block, x))
            x = block.norm_forward(x + block.forward_net(x))
    np.testing.assert_allclose(states(network, rows, segments, positions, user=user), x, atol=1e-5)


def test_tokens_with_recency_are_sums_of_all_items_up_to_them(make_network):
    network, rows = make_network(seed=7, recency=0.7, past_weight=0.8), [61, 4, 9, 30]
    with torch.no_grad():
        share, past, sums = network.recency.sigmoid(), torch.zeros(8), []
        for row in rows:
            sums.append(network.items.weight[row] + network.past_weight * past)
            past = share * (past + network.items.weight[row])
        others = network.positions.weight[:4] + network.segments.weight[0] + network.users.weight[3]
        x = network.embed(tokens(rows), torch.tensor([3]))[0]
        expected = network.norm(torch.stack(sums) + others)
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("recency", [0.05, 0.7, 0.95])
def test_recency_begins_where_it_is_set(recency):
    fresh = build_network("recgpt", {"num_items": 9, "dim": 8, "recency": recency, "past_weight": 0.8})
    assert float(fresh.recency.sigmoid().detach()) == pytest.approx(recency, abs=1e-6)
    assert float(fresh.past_weight.detach()) == pytest.approx(0.8)


def test_recency_is_trained(make_network, make_batch):
    network = make_network(recency=0.7).train()
    network.last_pairs(make_batch(5, 3))[0].square().sum().backward()
    assert network.recency.grad.abs() > 0
    assert network.past_weight.grad.abs() > 0


@pytest.mark.parametrize("recency", [1.0, 0, "x"])
def test_a_recency_that_means_nothing_is_refused(make_network, recency):
    with pytest.raises(ValueError, match="it is a number between 0 and 1"):
        make_network(recency=recency)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"recency": 0.7, "past_weight": 0.0}, "a number above 0"), ({"past_weight": 0.8}, "it needs a recency")],
)
def test_a_past_that_weighs_nothing_is_refused(make_network, settings, reason):
    with pytest.raises(ValueError, match=reason):
        make_network(**settings)


def test_the_future_is_not_seen(network):
    np.testing.assert_allclose(states(network, [61, 4, 9, 30])[:3], states(network, [61, 4, 9, 31])[:3], atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [([4, 61, 9],), ([61, 5, 9],), ([61, 4, 9], [0, 1, 0]), ([61, 4, 9], [0, 0, 0], [0, 2, 2])],
    ids=["order", "item", "segment", "position"],
)
def test_every_part_of_the_past_changes_the_state(network, other):
    assert abs(states(network, [61, 4, 9])[2] - states(network, *other)[2]).max() > 1e-3


def test_user_changes_the_state(network):
    assert abs(states(network, [61, 4], user=1) - states(network, [61, 4], user=2)).max() > 1e-3


def test_the_table_that_ranks_is_the_embedding_of_the_items(network):
    assert network.item_vectors().data_ptr() == network.items.weight[1].data_ptr()
    assert len(network.item_vectors()) == network.config.num_items


def test_hidden_users_train_the_unknown_one(make_network, make_batch):
    network = make_network(user_dropout=1.0, dropout=0.0).train()
    states, _ = network.training_pairs(make_batch(3, 4))
    states.sum().backward()
    assert network.users.weight.grad[1:].abs().max() == 0
    assert network.users.weight.grad[0].abs().max() > 0


def test_a_network_that_never_saw_users_answers_all_alike(make_network):
    blind = make_network(user_dropout=1.0)
    assert np.array_equal(states(blind, [61, 4], user=2), states(blind, [61, 4], user=0))


def test_heads_must_divide_the_width(make_network):
    with pytest.raises(ValueError, match="dim 8 is not a multiple of num_heads 3"):
        make_network(num_heads=3)
