"""Block maxima and the candidates they leave, against the scores of all items."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from model.kernels import block_max as kernels
from model.kernels.block_max import BLOCK, best_items, block_maxima

sizes = st.integers(1, 5 * BLOCK + 3)


def vectors(*shape, seed=0, whole=False):
    draws = torch.Generator().manual_seed(seed)
    # whole numbers tie
    return torch.randint(-2, 3, shape, generator=draws).float() if whole else torch.randn(shape, generator=draws)


def slow_maxima(queries, items):
    scores = queries @ items.T
    return torch.stack([part.amax(1) for part in scores.split(BLOCK, dim=1)], 1)


@given(sizes, st.integers(1, 5))
def test_block_maxima_are_those_of_the_scores(num_items, num_queries):
    queries, items = vectors(num_queries, 6), vectors(num_items, 6, seed=1)
    torch.testing.assert_close(block_maxima(queries, items), slow_maxima(queries, items))


def test_many_items_are_scored_in_pieces(monkeypatch):
    monkeypatch.setattr(kernels, "PIECE", 3 * BLOCK)
    queries, items = vectors(3, 6), vectors(7 * BLOCK + 5, 6, seed=1)
    torch.testing.assert_close(block_maxima(queries, items), slow_maxima(queries, items))


@given(sizes, st.integers(1, 40), st.integers(0, 20), st.booleans(), st.data())
def test_the_best_are_among_the_candidates_whatever_is_excluded(num_items, k, num_excluded, whole, data):
    queries, items = vectors(4, 3, whole=whole), vectors(num_items, 3, seed=1, whole=whole)
    candidates, rows = best_items(queries, items, k, num_excluded)
    assert (rows.diff(dim=1) > 0).all()
    scores = queries @ items.T
    excluded = data.draw(st.lists(st.integers(0, num_items - 1), max_size=num_excluded, unique=True))
    scores[:, excluded] = -torch.inf
    candidates = candidates.masked_fill(torch.isin(rows, torch.tensor(excluded, dtype=torch.int64)), -torch.inf)
    best = min(k, num_items)
    torch.testing.assert_close(candidates.topk(best).values, scores.topk(best).values)


def test_few_vectors_are_gathered_at_once(monkeypatch):
    queries, items = vectors(9, 4), vectors(300, 4, seed=1)
    whole = best_items(queries, items, 5)
    monkeypatch.setattr(kernels, "GATHERED", 1)
    for ours, theirs in zip(best_items(queries, items, 5), whole, strict=True):
        torch.testing.assert_close(ours, theirs)
