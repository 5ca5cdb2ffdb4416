"""ComiRec's two ways to interests against the paper's formulas, one history and one position at a time."""

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.catalogue import Ragged
from model.records import Placement, PromptPlan

ITEMS = [4, 9, 30, 2]


@pytest.fixture(scope="module", params=["sa", "dr"])
def network(request, make_network):
    return make_network("comirec", variant=request.param, num_interests=3, prefixes_per_user=20)


def newest_first(network, items):
    """(T, D) v_n .. v_1, START."""
    return network.norm(network.items.weight[[*reversed(items), network.start_row]])


def interests_of(network, *histories):
    with torch.no_grad():
        return network.queries(Batch.of(histories, [0] * len(histories), 12), PromptPlan()).vectors


def test_self_attention_follows_the_formula(make_network):
    network = make_network("comirec", variant="sa", num_interests=3)
    H = newest_first(network, ITEMS).detach().numpy()
    P, W1, W2 = (w.detach().numpy() for w in network.interests.parameters())
    logits = np.tanh((H + P[: len(H)]) @ W1.T) @ W2.T  # (T, K)
    A = np.exp(logits) / np.exp(logits).sum(0)
    np.testing.assert_allclose(interests_of(network, ITEMS)[0], A.T @ H, atol=1e-5)


def test_separate_tables_read_one_and_rank_by_the_other(make_network):
    network = make_network("comirec", separate_tables=True)
    before = interests_of(network, ITEMS)
    with torch.no_grad():
        network.items.weight += 1
    assert torch.equal(interests_of(network, ITEMS), before)
    with torch.no_grad():
        network.read.weight[ITEMS] += torch.randn(len(ITEMS), network.config.dim)
    assert not torch.equal(interests_of(network, ITEMS), before)


def test_separate_tables_start_as_a_pair(make_network):
    network = make_network("comirec", separate_tables=True, spectral_start=0.05, backward=0.0)
    network.start_from(Ragged.of([[1, 2]] * 50 + [[3, 4]] * 50))
    scores = network.read.weight[[1, 3]] @ network.item_vectors().T
    # what follows is ranked first, not the item itself
    assert (scores.argmax(1) + 1).tolist() == [2, 4]


def slow_squash(vector):
    length = torch.linalg.vector_norm(vector)
    return length**2 / (1 + length**2) * vector / length


def slow_routing(votes, num_rounds):
    """Interests (K, D) of votes[t][k]; the coupling of the last round is a constant, as in the paper's code."""
    T, K = len(votes), len(votes[0])
    logits = [[0.0] * K for _ in range(T)]
    for _ in range(num_rounds):
        coupling = [torch.softmax(torch.tensor(row), 0).tolist() for row in logits]
        interests = [slow_squash(sum(coupling[t][k] * votes[t][k] for t in range(T))) for k in range(K)]
        logits = [[logits[t][k] + float((votes[t][k] @ interests[k]).detach()) for k in range(K)] for t in range(T)]
    return torch.stack(interests)


def slow_interests(network, items):
    K, D = network.config.num_interests, network.config.dim
    states = newest_first(network, items)
    votes = [[h @ m[:, k * D : (k + 1) * D] for k in range(K)] for h, m in zip(states, network.interests.maps)]  # noqa: B905
    return slow_routing(votes, network.config.num_iterations)


@pytest.mark.parametrize("num_iterations", [1, 3])
def test_dynamic_routing_follows_the_paper(make_network, num_iterations):
    network = make_network("comirec", variant="dr", num_interests=3, num_iterations=num_iterations)
    torch.testing.assert_close(
        interests_of(network, ITEMS)[0], slow_interests(network, ITEMS).detach(), atol=1e-5, rtol=1e-4
    )


def test_gradient_of_routing_flows_through_the_last_round_only(make_network):
    network = make_network("comirec", variant="dr", num_interests=3)
    weights = [network.items.weight, network.interests.maps]
    direction = torch.randn(3, 8, generator=torch.manual_seed(0))
    interests = network.queries(Batch.of([ITEMS], [0], 12), PromptPlan()).vectors[0]
    expected = torch.autograd.grad((slow_interests(network, ITEMS) * direction).sum(), weights)
    for ours, slow in zip(torch.autograd.grad((interests * direction).sum(), weights), expected, strict=True):
        torch.testing.assert_close(ours, slow, atol=1e-5, rtol=1e-4)


def test_squashed_interests_are_shorter_than_one(make_network):
    network = make_network("comirec", variant="dr")
    lengths = interests_of(network, [1, 2, 3], [5] * 12).norm(dim=2)
    assert lengths.min() > 0
    assert lengths.max() < 1


def test_padding_does_not_matter(network):
    alone, padded = interests_of(network, ITEMS)[0], interests_of(network, ITEMS, list(range(1, 13)), [])[0]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=0)


def test_interests_differ_from_each_other(network):
    a, b, c = interests_of(network, ITEMS)[0]
    assert min(float((x - y).abs().max()) for x, y in ((a, b), (b, c), (a, c))) > 1e-3


def test_order_matters(network):
    interests = interests_of(network, ITEMS, ITEMS[::-1])
    assert (interests[0] - interests[1]).abs().max() > 1e-3


def test_all_interests_of_a_prefix_are_trained_on_the_next_item(network):
    states, targets = network.training_pairs(Batch.of([ITEMS, [7, 8]], [0, 0], 12))
    prefixes = {history[n]: history[:n] for history in (ITEMS, [7, 8]) for n in range(len(history))}
    expected = interests_of(network, *(prefixes[target] for target in targets[:, 0].tolist()))
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("samples", "num_pairs"), [(1, 2), (3, 5), (20, 6)])
def test_each_history_gives_its_random_prefixes_once(make_network, samples, num_pairs):
    network = make_network("comirec", prefixes_per_user=samples)
    _, targets = network.training_pairs(Batch.of([ITEMS, [7, 8]], [0, 0], 12))
    assert len(set(targets[:, 0].tolist())) == len(targets) == num_pairs
    assert set(targets[:, 0].tolist()) <= {*ITEMS, 7, 8}


def test_prefixes_are_drawn_anew(make_network):
    network = make_network("comirec", prefixes_per_user=1)
    batch = Batch.of([ITEMS], [0], 12)
    assert {int(network.training_pairs(batch)[1][0, 0]) for _ in range(60)} == set(ITEMS)


@pytest.mark.parametrize("plan", [PromptPlan(1, Placement.TAIL), PromptPlan(1, Placement.ALL), PromptPlan(num_steps=2)])
def test_plan_with_prompts_is_refused(network, make_batch, plan):
    with pytest.raises(ValueError, match="ComiRec generates no prompts"):
        network.queries(make_batch(3), plan)


def test_training_with_prompts_is_refused(network, make_batch):
    with pytest.raises(ValueError, match="ComiRec generates no prompts"):
        network.training_pairs(make_batch(3), 1)
