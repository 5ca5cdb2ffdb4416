"""One attention, whichever way it is asked: all tokens at once, one of them, or token by token behind a cache."""

import pytest
import torch

from model.generation.kv_cache import KeyValueCache
from model.networks.layers import Attention, Block, Width, init_weights, token_at

B, T, D, H = 3, 7, 8, 2


@pytest.fixture(scope="module")
def block():
    torch.manual_seed(0)
    return Block(Width(D, H), 0.0).eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(1))


def new_cache():
    return KeyValueCache((B, H, T + 4, D // H), 1, torch.zeros(1))


@torch.no_grad()
def test_a_state_does_not_see_what_follows_it(block, x):
    changed = x.clone()
    changed[:, 4:] += 1
    assert torch.equal(block(x)[:, :4], block(changed)[:, :4])
    assert not torch.allclose(block(x)[:, 4:], block(changed)[:, 4:])


@torch.no_grad()
@pytest.mark.parametrize("places", [[0, 3, 6], [6, 6, 6], [0, 0, 0]])
def test_one_token_alone_is_that_of_all(block, x, places):
    at = torch.tensor(places)
    torch.testing.assert_close(block.at(x, at), token_at(block(x), at), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[7], [3, 4], [1] * 7, [5, 1, 1]])
def test_tokens_in_pieces_are_the_tokens_at_once(block, x, cuts):
    cache, states = new_cache(), []
    for part in x.split(cuts, 1):
        cache.reserve(part.shape[1])
        states.append(block.extend(part, cache, 0))
        cache.advance(part.shape[1])
    torch.testing.assert_close(torch.cat(states, 1), block(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_last_of_each_sequence_is_that_of_all(block, x):
    last, cache = torch.tensor([2, 6, 0]), new_cache()
    cache.reserve(T)
    torch.testing.assert_close(block.extend_last(x, cache, 0, last), token_at(block(x), last), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_generated_token_sees_what_its_own_place_sees(block, x):
    """Behind place t it is the token that would follow x[:, : t + 1] in a sequence of its own."""
    states, keys, values = block.remember(x)
    new = torch.randn(B, T, D, generator=torch.Generator().manual_seed(2))
    branched = block.branch(new, [keys], [values])
    for t in (0, 3, 6):
        alone = block(torch.cat([x[:, : t + 1], new[:, t : t + 1]], 1))[:, -1]
        torch.testing.assert_close(branched[:, t], alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(states, block(x))


def test_a_width_is_shared_evenly_by_its_heads():
    assert Width(8, 2).head_width == 4
    with pytest.raises(ValueError, match="dim 9 is not a multiple of num_heads 2"):
        Width(9, 2)


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 2.0])
def test_a_share_of_attention_that_is_dropped_is_below_one(wrong):
    with pytest.raises(ValueError, match="it is a share from 0 to below 1"):
        Attention(Width(8, 2), wrong)


def test_dropout_is_for_training_alone(x):
    torch.manual_seed(0)
    noisy = Block(Width(D, H), 0.5)
    assert not torch.equal(noisy(x), noisy(x))
    noisy.eval()
    assert torch.equal(noisy(x), noisy(x))


def test_fresh_weights_are_small_and_biases_zero():
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    init_weights(layer)
    assert not layer.bias.any()
    assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
