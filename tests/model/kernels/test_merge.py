"""Merged lists against `model.merging.merge`, which is the definition."""

import numpy as np
import pytest
import torch

from model.kernels.blocks import key_of  # noqa: F401  (compiled with the rest)
from model.kernels.merge import Limits, Lists, merge_pooled, merge_quotas
from model.merging import merge, split_limit
from model.records import PromptPlan, ServingPlan

WIDTH, LIMIT, USERS = 32, 20, 5


def hits(steps, seed):
    """(U, S, WIDTH) rows, of which queries share many, and whole scores, which tie."""
    draws = np.random.default_rng(seed)
    rows = np.stack([draws.permutation(40)[:WIDTH] + 1 for _ in range(USERS * steps)])
    scores = np.sort(draws.integers(-9, 9, rows.shape).astype(np.float32))[:, ::-1]
    order = np.lexsort((rows, -scores), axis=1)
    shape = (USERS, steps, WIDTH)
    return np.take_along_axis(rows, order, 1).reshape(shape), np.take_along_axis(scores, order, 1).reshape(shape)


def keys_of(rows, scores, device):
    bits = scores.reshape(-1, WIDTH).view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return torch.from_numpy((ordered << 32) | (0x7FFFFFFF - (rows.reshape(-1, WIDTH) - 1))).to(device)


@pytest.mark.parametrize("quotas", [(), (1,), (7, 3), (5, 3, 2), (1, 1, 1, 1)])
def test_lists_are_those_of_the_definition(device, quotas):
    steps = len(quotas) or 4
    rows, scores = hits(steps, steps)
    plan = ServingPlan(PromptPlan(num_steps=steps), quotas)
    limits = torch.tensor([[LIMIT], [1], [7], [0], [13]], dtype=torch.int32, device=device)
    lists = Lists(*(part + 7 for part in Lists.empty(USERS, LIMIT, torch.device(device))))
    keys = keys_of(rows, scores, device)
    if quotas:
        shares = [split_limit(length, quotas) for length in range(LIMIT + 1)]
        merge_quotas(keys, torch.tensor(shares, dtype=torch.int32, device=device), Limits(limits, 0), lists)
    else:
        merge_pooled(keys, Limits(limits, 0), lists)
    for user, limit in enumerate(limits[:, 0].tolist()):
        ours = [part[user].cpu().numpy() for part in lists]
        assert not any(part[limit:].any() for part in ours)
        if limit:
            theirs = merge(rows[user : user + 1, :, :limit], scores[user : user + 1, :, :limit], limit, plan)
            for mine, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(mine[:limit], other[0])
