"""Each baseline against its paper's formulas, one history and one position at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.batch import Batch
from model.catalogue import Ragged
from model.generation.tokens import Tokens
from model.networks import build_network
from model.networks.sampling import random_prefixes
from model.records import PromptPlan

ITEMS = [4, 9, 30, 2]
CAUSAL = ["gru4rec", "sasrec", "s3rec"]


def query_of(network, items, user=0):
    with torch.no_grad():
        return network.queries(Batch.of([items], [user], 12), PromptPlan()).vectors[0, 0]


def embedded(network, items):
    """(T, D) START, v_1 .. v_n"""
    return network.items.weight[[network.start_row, *items]].detach()


@pytest.fixture
def check(make_network):
    """That the answer of a system to ITEMS is what `slow` computes from its weights and the embedded history."""

    def check_system(kind, slow):
        network = make_network(kind)
        with torch.no_grad():
            expected = slow(network, embedded(network, ITEMS))
        torch.testing.assert_close(query_of(network, ITEMS), expected, atol=1e-5, rtol=1e-4)

    return check_system


def test_popularity_counts(make_network):
    network = build_network("popularity", {"num_items": 4})
    network.start_from(Ragged.of([[1, 2, 2], [2, 4]]))
    torch.testing.assert_close(network.item_vectors(), torch.tensor([[1.0], [3.0], [0.0], [1.0]]).log1p())
    assert query_of(network, [3]).tolist() == [1.0]


def test_popularity_has_one_number_an_item():
    with pytest.raises(ValueError, match="dim is 8, it must be 1"):
        build_network("popularity", {"num_items": 4, "dim": 8})


def test_bpr_scores_are_the_product_and_the_bias(make_network):
    network = make_network("bpr")
    expected = network.item_vectors()[:, :-1] @ network.users.weight[3] + network.item_vectors()[:, -1]
    torch.testing.assert_close(network.item_vectors() @ query_of(network, ITEMS, 3), expected)


def test_bpr_has_no_room_for_a_bias_in_one_number():
    with pytest.raises(ValueError, match="dim is 1; BPR needs at least 2"):
        build_network("bpr", {"num_items": 4, "dim": 1})


@pytest.mark.parametrize("kind", ["bpr", "caser"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_hidden_users_train_the_unknown_one(make_network, kind, share):
    network = make_network(kind, user_dropout=share).train()
    network.training_pairs(Batch.of([[1, 2], [3]], [2, 4], 12))[0].sum().backward()
    touched = network.users.weight.grad.abs().amax(1).nonzero().flatten().tolist()
    assert touched == ([0] if share else [2, 4])


def test_bpr_user_unseen_in_training_is_answered_by_the_biases():
    fresh = build_network("bpr", {"num_items": 9, "num_users": 3, "dim": 4})
    assert query_of(fresh, [], 2).tolist() == query_of(fresh, [], 0).tolist() == [0, 0, 0, 1]


def test_stamp_follows_the_formulas(check):
    def slow(network, x):
        asked = network.w2(x[-1]) + network.w3(x.mean(0))
        attended = sum(network.w0(torch.sigmoid(network.w1(token) + asked)) * token for token in x)
        return torch.tanh(network.memory(attended)) * torch.tanh(network.latest(x[-1]))

    check("stamp", slow)


def recurrent_states(gru, x):
    """The equations of the gated recurrent unit; reset gate, update gate, candidate."""
    state, states = x.new_zeros(gru.hidden_size), []
    for token in x:
        seen = (gru.weight_ih_l0 @ token + gru.bias_ih_l0).chunk(3)
        kept = (gru.weight_hh_l0 @ state + gru.bias_hh_l0).chunk(3)
        reset, update = torch.sigmoid(seen[0] + kept[0]), torch.sigmoid(seen[1] + kept[1])
        state = (1 - update) * torch.tanh(seen[2] + reset * kept[2]) + update * state
        states.append(state)
    return torch.stack(states)


def test_gru4rec_follows_the_formulas(check):
    check("gru4rec", lambda network, x: network.out(recurrent_states(network.gru, x)[-1]))


def test_narm_follows_the_formulas(check):
    def slow(network, x):
        states = recurrent_states(network.gru, x)
        weights = [network.v(torch.sigmoid(network.a1(states[-1]) + network.a2(state))) for state in states]
        local = sum(weight * state for weight, state in zip(weights, states, strict=True))
        return network.b(torch.cat([states[-1], local]))

    check("narm", slow)


@pytest.mark.parametrize("kind", ["stamp", "narm"])
def test_prefixes_that_share_a_pass_are_answered_as_if_alone(make_network, kind):
    # more places than the shorter histories have
    network, batch = make_network(kind, prefixes_per_user=3), Batch.of([[5, 6, 7, 8], [9], [3, 4], []], [0] * 4, 12)
    torch.manual_seed(0)
    queries, targets = network.training_pairs(batch)
    torch.manual_seed(0)
    prefixes, expected = random_prefixes(batch, 3)
    torch.testing.assert_close(queries, network.vectors(prefixes)[:, 0], atol=1e-6, rtol=1e-5)
    assert targets.tolist() == expected.tolist()
    assert len(targets) == 6


@pytest.mark.parametrize("items", [ITEMS, [], [*range(1, 10)]])
def test_caser_follows_the_formulas(make_network, items):
    network = make_network("caser", num_users=5)
    image = F.pad(embedded(network, items).flip(0)[:5], (0, 0, 0, max(0, 4 - len(items))))  # (W, D) newest first
    across = [
        torch.stack([torch.relu(f.bias + (f.weight * image[t : t + h].T).sum((1, 2))) for t in range(6 - h)]).amax(0)
        for h, f in enumerate(network.horizontal, start=1)
    ]
    down = (network.vertical.weight @ image + network.vertical.bias[:, None]).T.flatten()
    z = torch.relu(network.join(torch.cat([*across, down])))
    expected = network.out(torch.cat([z, network.users.weight[3]]))
    torch.testing.assert_close(query_of(network, items, 3), expected.detach(), atol=1e-5, rtol=1e-4)


def test_caser_reads_its_window_only(make_network):
    network = make_network("caser", window=3)
    torch.testing.assert_close(query_of(network, [7, 8, 1, 2, 3]), query_of(network, [9, 1, 2, 3]))
    assert (query_of(network, [7, 8, 1, 2, 3]) - query_of(network, [5, 2, 3])).abs().max() > 1e-3


@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_systems_do_not_look_ahead(make_network, kind):
    network = make_network(kind)
    rows = torch.tensor([ITEMS])
    before = network.states(Tokens.plain(rows, network.start_row))
    after = network.states(Tokens.plain(torch.tensor([[4, 9, 30, 51]]), network.start_row))
    torch.testing.assert_close(before[:, :-1], after[:, :-1], atol=1e-6, rtol=0)
    assert (before[:, -1] - after[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", CAUSAL)
def test_training_is_asked_what_serving_is(make_network, kind):
    """The state trained to predict v_t is the query of the history v_1 .. v_(t - 1)."""
    network = make_network(kind)
    states, targets = network.training_pairs(Batch.of([ITEMS], [0], 12))
    assert targets[:, 0].tolist() == ITEMS
    for t, state in enumerate(states):
        torch.testing.assert_close(state.detach(), query_of(network, ITEMS[:t]), atol=1e-5, rtol=0)


def test_sasrec_is_recgpt_without_users_and_segments(make_network):
    sasrec, recgpt = make_network("sasrec"), make_network("recgpt")
    with torch.no_grad():
        for table in (recgpt.users.weight, recgpt.segments.weight):
            table.zero_()
    ours = {f"transformer.{name}" if name != "items.weight" else name for name in recgpt.state_dict()}
    weights = {n: recgpt.state_dict()[n.removeprefix("transformer.")] for n in sasrec.state_dict().keys() & ours}
    sasrec.load_state_dict(weights)
    assert np.allclose(query_of(sasrec, ITEMS), query_of(recgpt, ITEMS), atol=1e-5)
