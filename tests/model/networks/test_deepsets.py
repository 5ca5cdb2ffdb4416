"""Deep Sets against its formula, and its duties as a set: no order, bounded by its layer, biases of popularity."""

import pytest
import torch

from model.batch import Batch
from model.catalogue import Ragged
from model.networks import build_network
from model.networks.deepsets import random_parts
from model.records import PromptPlan

ITEMS = [4, 9, 30, 2]


def query_of(network, items):
    with torch.no_grad():
        return network.queries(Batch.of([items], [0], 12), PromptPlan()).vectors[0, 0]


@pytest.fixture
def network(make_network):
    return make_network("deepsets")


@pytest.fixture
def fresh():
    network = build_network("deepsets", {"num_items": 6, "dim": 4})
    network.start_from(Ragged.of([[1, 2, 2], [2, 4]]))
    return network.eval()


@pytest.mark.parametrize("items", [ITEMS, [7, 7], []])
def test_it_follows_the_formula(network, items):
    read = network.items.weight[[network.start_row, *items], :-1].detach()
    personal = torch.tanh(network.layer.weight @ (read.sum(0) / len(read)) + network.layer.bias)
    torch.testing.assert_close(query_of(network, items), torch.cat([personal, torch.ones(1)]).detach())


def test_a_score_is_the_product_and_the_bias(network):
    table, query = network.item_vectors(), query_of(network, ITEMS)
    torch.testing.assert_close(table @ query, table[:, :-1] @ query[:-1] + table[:, -1])


def test_the_order_is_not_read(network):
    torch.testing.assert_close(query_of(network, ITEMS), query_of(network, ITEMS[::-1]))


def test_biases_start_at_log_popularity(fresh):
    counts = torch.tensor([1.0, 3.0, 0.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(fresh.item_vectors()[:, -1], counts.log1p())
    assert fresh.items.weight[[0, fresh.start_row], -1].tolist() == [0, 0]


def test_biases_are_no_factors():
    network = build_network("deepsets", {"num_items": 4, "dim": 4, "spectral_start": 0.5})
    network.start_from(Ragged.of([[1, 2], [2, 1], [4, 3]]))
    torch.testing.assert_close(network.item_vectors()[:, -1], torch.tensor([2.0, 2.0, 1.0, 1.0]).log1p())
    assert network.item_vectors()[:, :-1].std() > 0.1


def test_untrained_it_ranks_by_popularity(fresh):
    scores = (fresh.item_vectors() @ query_of(fresh, [4])).tolist()
    assert sorted(range(1, 7), key=lambda row: -scores[row - 1])[:1] == [2]


def test_a_long_history_departs_no_further_than_a_short_one(network):
    torch.testing.assert_close(query_of(network, [5] * 11), query_of(network, [5] * 11 + [5]), atol=0.05, rtol=0)
    assert query_of(network, [*range(1, 13)])[:-1].abs().max() <= 1


def test_targets_are_what_the_query_was_not_shown(network, make_batch):
    batch = make_batch(9, 1, 0, 4)
    torch.manual_seed(3)
    hidden = random_parts(batch)
    torch.manual_seed(3)
    queries, targets = network.training_pairs(batch)
    users = (0, 1, 3)  # an empty history has nothing to hide
    expected = [{*batch.rows[user][hidden[user]].tolist()} for user in users]
    assert [{*row[row > 0].tolist()} for row in targets] == expected
    assert (targets[:, 0] > 0).all()
    shown = [batch.rows[user][batch.real[user] & ~hidden[user]].tolist() for user in users]
    torch.testing.assert_close(queries.detach(), torch.stack([query_of(network, items) for items in shown]))


def test_each_history_hides_an_item_and_shares_differ(make_batch):
    torch.manual_seed(0)
    batch = make_batch(*[12] * 200, 1, 0)
    hidden = random_parts(batch)
    assert not (hidden & ~batch.real).any()
    sizes = hidden.sum(1)
    assert sizes[200:].tolist() == [1, 0]
    # of 12, any number is as likely as any other, but that none becomes one
    assert {*sizes[:200].tolist()} == {*range(1, 13)}


def test_the_empty_history_is_trained(network, make_batch):
    queries, _ = network.train().training_pairs(make_batch(1, 1))
    network.zero_grad()
    queries.sum().backward()
    assert network.items.weight.grad[network.start_row].abs().max() > 0


def test_it_has_no_room_for_a_bias_in_one_number():
    with pytest.raises(ValueError, match="dim is 1; Deep Sets needs at least 2"):
        build_network("deepsets", {"num_items": 4, "dim": 1})
