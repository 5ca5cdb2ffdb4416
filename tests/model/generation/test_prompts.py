"""Generation with a key/value cache against Algorithm 1 recomputed from scratch for every item."""

import pytest
import torch

from model.batch import Batch
from model.generation.prompts import eval_mode, expanded_tokens
from model.generation.tokens import Tokens
from model.records import Placement, PromptPlan

NONE, TAIL, ALL = Placement.NONE, Placement.TAIL, Placement.ALL


class SlowReader:
    """One user's sequence; every state is computed from the whole of it."""

    def __init__(self, network, user):
        self.network, self.user = network, torch.tensor([user])
        self.tokens = [(network.start_row, 0, 0)]  # row, segment, position

    @property
    def state(self):
        rows, segments, positions = torch.tensor(self.tokens).T[:, None]
        return self.network.states(Tokens(rows, segments, positions), self.user)[0, -1]

    def read(self, row, place):
        self.tokens.append((row, 0, place))

    def write(self, place):
        row = 1 + int((self.network.items.weight[1:-1] @ self.state).argmax())
        self.tokens.append((row, 1, place))
        return row


def read_history(network, items, user, num_prompts):
    """Algorithm 1."""
    reader = SlowReader(network, user)
    for place, row in enumerate(items, start=1):
        for _ in range(num_prompts if place > 1 else 0):
            reader.write(place)
        reader.read(row, place)
    return reader


def slow_queries(network, items, user, plan):
    reader = read_history(network, items, user, plan.num_prompts if plan.placement is ALL else 0)
    after = min(len(items) + 1, network.config.max_length)
    prompts = [reader.write(after) for _ in range(plan.num_prompts if plan.placement is TAIL else 0)]
    vectors = [reader.state]
    for _ in range(plan.num_steps - 1):
        prompts.append(reader.write(after))
        vectors.append(reader.state)
    return torch.stack(vectors), prompts


def members(batch):
    """(items, user) of each history."""
    return [
        (row[:length].tolist(), int(user))
        for row, length, user in zip(batch.rows, batch.lengths, batch.users, strict=True)
    ]


PLANS = [
    *(PromptPlan(num_prompts, ALL, num_steps) for num_prompts in (1, 2, 3) for num_steps in (1, 2)),
    *(PromptPlan(num_prompts, TAIL, 2) for num_prompts in (1, 3)),
    *(PromptPlan(0, NONE, num_steps) for num_steps in (1, 2, 4)),
]


@pytest.fixture(scope="module", params=[{}, {"recency": 0.7, "past_weight": 0.8}], ids=["items", "sums"])
def network(make_network, request):
    return make_network(seed=1, **request.param)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.placement}-K{plan.num_prompts}-S{plan.num_steps}")
def test_cached_queries_equal_recomputed(network, make_batch, plan):
    batch = make_batch(0, 1, 2, 9, 5)
    vectors, prompts = network.queries(batch, plan)
    for i, (items, user) in enumerate(members(batch)):
        expected, rows = slow_queries(network, items, user, plan)
        assert prompts[i].tolist() == rows
        torch.testing.assert_close(vectors[i], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_prompts", [1, 2, 3])
def test_expanded_sequence_equals_recomputed(network, make_batch, num_prompts):
    batch = make_batch(0, 1, 2, 8, 5)
    tokens = expanded_tokens(network, batch, num_prompts)
    for i, (items, user) in enumerate(members(batch)):
        slow = torch.tensor(read_history(network, items, user, num_prompts).tokens).T
        read = torch.stack([tokens.rows[i], tokens.segments[i], tokens.positions[i]])
        assert read[:, : slow.shape[1]].tolist() == slow.tolist()


def test_different_plans_give_different_vectors(network, make_batch):
    read = [network.queries(make_batch(6), plan).vectors[0, 0] for plan in (PLANS[0], PLANS[2], PLANS[6], PLANS[8])]
    assert min(float((a - b).abs().max()) for i, a in enumerate(read) for b in read[:i]) > 1e-3


def test_prompts_depend_on_the_user(network):
    batch = Batch.of([[3, 4, 5]] * 6, range(6), 12)
    assert len({tuple(row) for row in network.queries(batch, PromptPlan(2, TAIL, 2)).prompts.tolist()}) > 1


def test_a_full_window_has_room_for_every_step(network, make_batch):
    batch = make_batch(network.config.max_length)
    vectors, prompts = network.queries(batch, PromptPlan(3, ALL, 4))
    expected, rows = slow_queries(network, *members(batch)[0], PromptPlan(3, ALL, 4))
    assert prompts[0].tolist() == rows
    torch.testing.assert_close(vectors[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("plan", [PromptPlan(2, ALL, 3), PromptPlan(2, TAIL, 3)])
def test_padding_and_start_are_never_generated(make_network, make_batch, plan):
    network = make_network(seed=2)
    network.items.weight[0] = 100 * network.items.weight[5]
    network.items.weight[-1] = 100 * network.items.weight[5]
    prompts = network.queries(make_batch(2, 7, 7, 0), plan).prompts
    expanded = expanded_tokens(network, make_batch(7, 7), 2)
    generated = torch.cat([prompts.flatten(), expanded.rows[expanded.segments == 1]])
    assert generated.min() >= 1
    assert generated.max() <= network.config.num_items


def test_interleave_puts_prompts_before_every_real_item_but_the_first():
    plain = Tokens.plain(torch.tensor([[5, 6, 7]]), 99)
    tokens = plain.interleave(torch.tensor([[[61, 62], [71, 72]]]))
    assert tokens.rows.tolist() == [[99, 5, 61, 62, 6, 71, 72, 7]]
    assert tokens.segments.tolist() == [[0, 0, 1, 1, 0, 1, 1, 0]]
    assert tokens.positions.tolist() == [[0, 1, 2, 2, 2, 3, 3, 3]]


@pytest.mark.parametrize("num_prompts", [0, 1, 3])
def test_targets_stand_at_real_items_only(network, make_batch, num_prompts):
    batch = make_batch(1, 2, 9, 4)
    states, targets = network.training_pairs(batch, num_prompts)
    assert targets[:, 0].tolist() == [row for items, _ in members(batch) for row in items]
    assert states.shape == (1 + 2 + 9 + 4, 8)


@pytest.mark.parametrize("num_prompts", [0, 2])
def test_training_state_is_the_state_before_the_target(network, make_batch, num_prompts):
    batch = make_batch(1, 2, 7)
    states, _ = network.training_pairs(batch, num_prompts)
    expected = [
        read_history(network, items[:place], user, num_prompts).state
        for items, user in members(batch)
        for place in range(len(items))
    ]
    torch.testing.assert_close(states, torch.stack(expected), atol=1e-5, rtol=0)


def test_a_batch_of_single_items_trains_on_the_start_alone(network, make_batch):
    states, targets = network.training_pairs(make_batch(1, 1), 2)
    assert states.shape == (2, 8)
    assert targets[:, 0].tolist() == make_batch(1, 1).rows.flatten().tolist()


def test_prompts_come_without_dropout(make_network, make_batch):
    network, batch = make_network(seed=1, dropout=0.9), make_batch(8, 8, 8)
    answered = expanded_tokens(network, batch, 2).rows
    assert expanded_tokens(network.train(), batch, 2).rows.equal(answered)
    assert network.training


@pytest.mark.parametrize(("num_prompts", "trained"), [(0, False), (1, True)])
def test_the_segment_of_generated_items_is_trained_by_prompts_alone(make_network, make_batch, num_prompts, trained):
    network = make_network(seed=1)
    with torch.enable_grad():
        states, _ = network.training_pairs(make_batch(6), num_prompts)
        (gradient,) = torch.autograd.grad(states.sum(), network.segments.weight)
    assert bool(gradient[1].any()) is trained


def test_generation_keeps_the_mode_of_the_network(make_network, make_batch):
    for mode in (True, False):
        network = make_network().train(mode)
        network.training_pairs(make_batch(5, 3), 1)
        assert [module.training for module in network.modules()] == [mode] * len(list(network.modules()))


def test_mode_comes_back_after_an_error(make_network):
    network = make_network().train()
    with pytest.raises(RuntimeError, match="broken"), eval_mode(network):
        raise RuntimeError("broken")
    assert network.training


@pytest.mark.parametrize("wrong", [{"num_prompts": 7}, {"num_prompts": -1}, {"num_steps": 0}, {"num_steps": 9}])
def test_impossible_plan_is_refused(wrong):
    with pytest.raises(ValueError, match="it must be"):
        PromptPlan(**wrong)
