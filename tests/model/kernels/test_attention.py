"""Attention of packed histories against torch's, history by history, in fp64."""

import pytest
import torch
from torch.nn import functional as F

from model.kernels.attention import Heads, attend, attend_one
from model.kernels.packed import Packed

SHAPES = [(7, Heads(2, 8)), (70, Heads(4, 12)), (52, Heads(4, 32))]


def packed(lengths, most, device):
    """Histories of given lengths with one free row behind each."""
    ends = (lengths + 2).cumsum(0)
    columns = [lengths, lengths * 0, ends - lengths - 2, ends[-1].expand(len(lengths))]
    return Packed(torch.stack(columns, 1).int().to(device), most)


def slowly(tokens, heads):
    """(T, H W) of one history's tokens (T, 3 H W)."""
    shape = (1, len(tokens), 3, heads.heads, heads.width)
    q, k, v = tokens.double().view(shape).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(len(tokens), -1)


@pytest.mark.parametrize(("most", "heads"), SHAPES)
def test_each_history_attends_to_itself(draw, device, most, heads):
    lengths = torch.tensor([0, most - 1, most // 2])
    users, tokens = packed(lengths, most, device), draw(3 * (most + 1), 3 * heads.dim)
    every, last = attend(tokens, heads, users), attend_one(tokens, heads, users)
    for number, length in enumerate(lengths.tolist()):
        start = int(users.given[number, 2])
        expected = slowly(tokens[start : start + length + 1], heads)
        torch.testing.assert_close(every[start : start + length + 1].double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(last[number].double(), expected[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("most", "heads"), SHAPES)
def test_a_new_token_attends_to_all_before_it_and_is_kept(draw, device, most, heads):
    lengths = torch.tensor([0, most - 1, most // 2])
    users, kept = packed(lengths, most, device), draw(3 * (most + 1), 3 * heads.dim)
    before, own = kept.clone(), draw(3, 3 * heads.dim)
    answers = attend_one(kept, heads, users, 1, own)
    for number, length in enumerate(lengths.tolist()):
        start = int(users.given[number, 2])
        tokens = torch.cat([before[start : start + length + 1], own[number : number + 1]])
        torch.testing.assert_close(answers[number].double(), slowly(tokens, heads)[-1], rtol=1e-5, atol=1e-5)
        assert torch.equal(kept[start + length + 1, heads.dim :], own[number, heads.dim :])
