"""BERT4Rec and S3-Rec: what is hidden, who sees whom, and the four losses of pre-training."""

import pytest
import torch
from torch.nn import functional as F

from model.batch import Batch
from model.catalogue import Ragged
from model.networks import build_network
from model.networks.s3rec import neighbours, random_segments
from model.networks.sampling import hide_items, one_item
from model.records import PromptPlan

ITEMS = [4, 9, 30, 2]
NUM_ITEMS = 60
CATEGORIES = Ragged.of([[row % 3, 3] if row % 2 else [] for row in range(NUM_ITEMS)])  # of item row - 1


def batch_of(*histories):
    return Batch.of(histories, [0] * len(histories), 12)


def hide(*flags):
    return torch.tensor([flags], dtype=torch.bool)


@pytest.fixture(scope="module")
def bert(make_network):
    return make_network("bert4rec")


def bert_states(network, items, hidden):
    with torch.no_grad():
        return network.states(batch_of(items), hidden)[0]


def test_a_hidden_item_is_not_read(bert):
    hidden = hide(0, 1, 0, 0)
    torch.testing.assert_close(bert_states(bert, ITEMS, hidden), bert_states(bert, [4, 51, 30, 2], hidden))


@pytest.mark.parametrize("other", [[51, 9, 30, 2], [4, 9, 51, 2], [4, 9, 30, 51]])
def test_a_hidden_item_is_guessed_from_both_sides(bert, other):
    hidden = hide(0, 1, 0, 0)
    difference = bert_states(bert, ITEMS, hidden) - bert_states(bert, other, hidden)
    assert difference[2].abs().max() > 1e-3


def test_the_query_is_a_hidden_item_behind_the_history(bert):
    with torch.no_grad():
        query = bert.queries(batch_of(ITEMS), PromptPlan()).vectors[0, 0]
    torch.testing.assert_close(query, bert_states(bert, [*ITEMS, 17], hide(0, 0, 0, 0, 1))[-1], atol=1e-5, rtol=0)


def test_bert_states_follow_the_formulas(bert):
    hidden = [False, True, False, False, True]
    with torch.no_grad():
        x = bert.items.weight[[bert.start_row, *ITEMS]]
        x[torch.tensor(hidden)] = bert.transformer.mask
        x = bert.transformer.norm(x + bert.transformer.positions.weight[:5])
        for block in bert.transformer.blocks:
            q, k, v = block.attention.heads(x[None])
            heads = F.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, -1) @ v
            x = block.norm_attention(x + block.attention.join(heads)[0])
            x = block.norm_forward(x + block.forward_net(x))
    torch.testing.assert_close(bert_states(bert, ITEMS, hide(*hidden[1:])), bert.out(x).detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (1.0, 4)])
def test_every_history_hides_a_share_and_at_least_one(share, expected):
    hidden = hide_items(batch_of(ITEMS, [7], []), share)
    assert hidden.sum(1).tolist() == [expected, 1, 0]
    assert not hidden[:, len(ITEMS) :].any()


def test_the_one_item_is_any_of_them():
    batch = batch_of(ITEMS)
    assert {int(one_item(batch).long().argmax()) for _ in range(60)} == {0, 1, 2, 3}


def test_some_histories_are_cut_to_a_prefix_that_hides_its_end(make_network):
    network = make_network("bert4rec", prefix_share=1.0)
    lengths = set()
    for _ in range(60):
        batch, hidden = network.cloze(batch_of(ITEMS))
        assert hidden.nonzero().tolist() == [[0, int(batch.lengths) - 1]]
        lengths.add(int(batch.lengths))
    assert lengths == {1, 2, 3, 4}


def test_without_prefixes_whole_histories_are_read(make_network):
    network = make_network("bert4rec", prefix_share=0.0, mask_share=1.0)
    batch, hidden = network.cloze(batch_of(ITEMS, [7, 8]))
    assert batch.lengths.tolist() == hidden.sum(1).tolist() == [4, 2]


def test_bert_is_trained_on_what_it_hides(make_network):
    network = make_network("bert4rec", prefix_share=0.0, mask_share=1.0)
    states, targets = network.training_pairs(batch_of(ITEMS))
    assert targets[:, 0].tolist() == ITEMS
    torch.testing.assert_close(states.detach(), bert_states(network, ITEMS, hide(1, 1, 1, 1))[1:])


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_segments_are_runs_of_at_most_half(length):
    for _ in range(30):
        inside = random_segments(batch_of([*range(1, length + 1)], [1] * 12))[0].long()
        assert 1 <= int(inside.sum()) <= max(1, length // 2)
        assert int((inside.diff(prepend=torch.zeros(1, dtype=torch.int64)) == 1).sum()) == 1
        assert not inside[length:].any()


@pytest.fixture
def s3rec(make_network):
    """Pre-training reads every history with all items hidden: nothing is random but the segments."""

    def make(**settings):
        network = make_network("s3rec", mask_share=1.0, **settings)
        network.start_from(Ragged.of([]), CATEGORIES)
        return network

    return make


def test_pretraining_guesses_hidden_items_and_segments(s3rec):
    network, batch = s3rec(), batch_of(ITEMS)
    with torch.no_grad():
        states = network.around(batch, hide(1, 1, 1, 1))[0, 1:]
        scores = network.to_item(states) @ network.item_vectors().T
    items = -torch.stack([F.log_softmax(logits, 0)[row - 1] for logits, row in zip(scores, ITEMS, strict=True)]).mean()
    # alone in its batch a history has no other segment: log 2
    torch.testing.assert_close(network.pretraining_loss(batch).detach(), items + 0.5 * torch.tensor(2.0).log())


def test_a_segment_can_be_told_from_another(make_network):
    torch.manual_seed(0)
    network = build_network("s3rec", {"num_items": NUM_ITEMS, "dim": 16, "max_length": 12, "dropout": 0.0})
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    batch = batch_of([1, 2, 3, 4, 5, 6], [21, 22, 23], [41, 42, 43, 44, 45])
    for _ in range(60):
        optimizer.zero_grad()
        loss = network.segment_loss(batch)
        loss.backward()
        optimizer.step()
    assert loss < 0.1  # nothing known: log 2 = .69


def test_a_neighbour_has_the_items_of_the_next_history():
    other = neighbours(batch_of([1, 2, 3, 4, 5], [6, 7], [8]))
    assert other.lengths.tolist() == [5, 2, 1]
    assert [row[:n].tolist() for row, n in zip(other.rows, [5, 2, 1], strict=True)] == [[8] * 5, [1, 2], [6]]


@pytest.mark.parametrize("frozen", ["mask", "to_item", "to_segment"])
def test_tuning_leaves_the_parts_of_pretraining_alone(make_network, frozen):
    network = make_network("s3rec")
    network.training_pairs(batch_of(ITEMS))[0].sum().backward()
    assert all(weight.grad is None for name, weight in network.named_parameters() if frozen in name)
