"""The item ranked first, against the arg max of all scores."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.batch import Batch
from model.compiled import CompiledForward
from model.generation.greedy import BLOCK, MIN_BATCH, TopItem, top_item
from model.records import Placement, PromptPlan

NUM_ITEMS = 3 * BLOCK + 2

sizes = st.integers(1, NUM_ITEMS)
seeds = st.integers(0, 2**31)


def vectors(*shape, seed, whole=False):
    draws = torch.Generator().manual_seed(seed)
    # whole numbers tie
    return torch.randint(-2, 3, shape, generator=draws).float() if whole else torch.randn(shape, generator=draws)


def plainly(states, table):
    return (states @ table.T).argmax(1) + 1


@given(sizes, seeds)
def test_is_the_first_of_the_highest(num_items, seed):
    states, table = vectors(5, 3, seed=seed, whole=True), vectors(num_items, 3, seed=seed + 1, whole=True)
    assert torch.equal(top_item(states, table), plainly(states, table))
    assert torch.equal(TopItem(table)(states), plainly(states, table))


@given(sizes, st.integers(1, 9), st.sampled_from([1e-20, 0.01, 1.0, 1e15]), seeds)
def test_prepared_for_a_table_finds_the_same_item(num_items, dim, scale, seed):
    states, table = scale * vectors(40, dim, seed=seed), vectors(num_items, dim, seed=seed + 1)
    assert torch.equal(TopItem(table)(states), plainly(states, table))


@given(seeds, st.booleans())
def test_items_that_bf16_cannot_tell_apart_are_told_apart(seed, negative):
    # all scores within a tenth of what rounding changes
    table = 1 + 1e-4 * vectors(NUM_ITEMS, 8, seed=seed)
    states = vectors(40, 8, seed=seed + 1).abs() * (-1 if negative else 1)
    best, states, table = TopItem(table)(states), states.double(), table.double()
    scores = states @ table.T
    # fp32 sums may swap what differs in the seventh digit
    assert torch.all(scores.gather(1, best[:, None] - 1)[:, 0] >= scores.amax(1) - 1e-6 * scores.abs().amax(1))


def test_few_candidates_are_scored_again_not_all():
    states, table = vectors(64, 48, seed=0), vectors(20_000, 48, seed=1)
    rows = []

    class Counted(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.index.Tensor and result.shape[1:] == table.shape[1:]:
                rows.append(len(result))
            return result

    with Counted():
        TopItem(table)(states)
    assert 64 <= max(rows) < 64 * 16


@pytest.mark.parametrize("state", [float("nan"), float("inf"), 0.0])
def test_states_that_rank_nothing_give_some_item(state):
    best = TopItem(vectors(NUM_ITEMS, 8, seed=0))(torch.full((MIN_BATCH, 8), state))
    assert torch.all((best >= 1) & (best <= NUM_ITEMS))


def test_an_expansion_in_a_trace_is_the_eager_one(make_network, monkeypatch):
    monkeypatch.setattr(TopItem, "pays", staticmethod(lambda table, size: True))
    network = make_network(num_items=NUM_ITEMS)
    plan = PromptPlan(num_prompts=1, placement=Placement.ALL, num_steps=2)
    prepared = CompiledForward.of(network, plan, 4, 6)
    assert not prepared.eager
    for seed in range(3):
        draws = torch.Generator().manual_seed(seed)
        rows = torch.randint(1, NUM_ITEMS + 1, (4, 6), generator=draws)
        batch = Batch(rows, torch.tensor([6, 5, 1, 3]), torch.zeros(4, dtype=torch.int64))
        batch = Batch(rows * batch.real, batch.lengths, batch.users)
        with torch.no_grad():
            for ours, theirs in zip(prepared.run(batch), network.queries(batch, plan), strict=True):
                torch.testing.assert_close(ours, theirs)
