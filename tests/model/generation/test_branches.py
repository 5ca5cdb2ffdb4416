"""Training's parallel pass of soft items against recall: the same vectors at every cut of a history."""

import pytest
import torch

from model.batch import Batch
from model.generation.greedy import soft_item
from model.records import Placement, PromptForm, PromptPlan

PLAN = PromptPlan(0, Placement.NONE, 3, PromptForm.SOFT, 0.7)


@pytest.fixture(scope="module", params=[{}, {"recency": 0.7, "past_weight": 0.8}], ids=["items", "sums"])
def network(make_network, request):
    return make_network(seed=3, num_segments=3, **request.param)


def branches(network, batch):
    return network.branches(network.plain_tokens(batch), batch.users, PLAN.num_steps, PLAN.temperature)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 4, 12])
def test_a_branch_behind_each_item_is_recall_from_there(network, make_batch, length):
    batch = make_batch(length)
    states = torch.stack(branches(network, batch), 2)[0]  # (1 + L, S, D)
    items, user = batch.rows[0].tolist(), batch.users.tolist()
    for cut in range(length + 1):
        expected = network.queries(Batch.of([items[:cut]], user, 12), PLAN).vectors[0]
        # training's soft items may be means in bf16
        torch.testing.assert_close(states[cut], expected, atol=5e-2, rtol=0)


@torch.no_grad()
def test_real_tokens_do_not_see_the_branches(network, make_batch):
    batch = make_batch(7, 3)
    plain = network.states(network.plain_tokens(batch), batch.users)
    torch.testing.assert_close(branches(network, batch)[0], plain, atol=1e-6, rtol=0)


def test_a_generated_item_carries_no_gradient_to_the_state_that_named_it(network, make_batch):
    batch = make_batch(5)
    first, second, _ = branches(network, batch)
    first.retain_grad()
    second.sum().backward()
    assert first.grad is None


@torch.no_grad()
def test_a_soft_item_lies_between_the_mean_of_all_and_the_first(network):
    table, state = network.item_vectors(), torch.randn(4, 8)
    torch.testing.assert_close(soft_item(state, table, 1e6)[1], table.mean(0).expand(4, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(soft_item(state, table, 1e-4)[1], table[(state @ table.T).argmax(1)], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_sum_of_steps_is_one_query_vector(network, make_batch):
    batch = make_batch(7, 0, 12)
    steps = network.queries(batch, PLAN).vectors
    joined = PromptPlan(0, Placement.NONE, 3, PromptForm.SOFT, 0.7, step_weights=(1.0, 0.5, -2.0))
    expected = steps[:, 0] + 0.5 * steps[:, 1] - 2 * steps[:, 2]
    torch.testing.assert_close(network.queries(batch, joined).vectors[:, 0], expected, atol=1e-5, rtol=0)
    assert joined.num_vectors == 1


@torch.no_grad()
def test_what_a_soft_item_is_called_is_its_first_item(network, make_batch):
    batch = make_batch(7, 0, 12)
    vectors, prompts = network.queries(batch, PLAN)
    assert prompts[:, 0].tolist() == (1 + (vectors[:, 0] @ network.item_vectors().T).argmax(1)).tolist()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"step_weights": (1.0,)}, "one for each of 2 steps is needed"),
        ({"num_prompts": 1, "placement": Placement.ALL}, "soft items follow the end of a history"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        PromptPlan(**{"num_steps": 2, "form": PromptForm.SOFT, **settings})
