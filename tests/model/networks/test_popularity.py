"""PopRec: the order of the counts for everybody, and nothing to train."""

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.catalogue import Ragged
from model.networks import build_network
from model.networks.popularity import log_popularity
from model.records import PromptPlan

HISTORIES = Ragged.of([[1, 2, 2, 3], [2, 3], [2]])


@pytest.fixture
def network():
    network = build_network("popularity", {"num_items": 5, "num_users": 3})
    network.start_from(HISTORIES)
    return network


def scores(network, *histories):
    batch = Batch.of(histories, [0] * len(histories), 10)
    with torch.no_grad():
        return (network.queries(batch, PromptPlan()).vectors @ network.item_vectors().T)[:, 0]


def test_items_rank_by_how_often_they_were_watched(network):
    assert scores(network, [1]).argsort(descending=True, stable=True).tolist() == [[1, 2, 0, 3, 4]]


def test_everybody_gets_the_same_whatever_they_watched(network):
    ours = scores(network, [], [5, 4], [1] * 10)
    assert torch.equal(ours, ours[:1].expand_as(ours))


def test_padding_and_start_are_counted_by_nobody():
    counts = log_popularity(HISTORIES, 7)
    assert counts[[0, 4, 5, 6]].tolist() == [0, 0, 0, 0]
    assert counts[2] == pytest.approx(np.log(5))


def test_no_weight_is_trained(network):
    assert not any(weights.requires_grad for weights in network.parameters())
    with pytest.raises(ValueError, match="PopRec is counted, not trained"):
        network.training_pairs(Batch.of([[1, 2]], [1], 10))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dim": 2}, "popularity is one number an item: dim is 2, it must be 1"),
        ({"spectral_start": 0.1}, "popularity has no spectral start"),
        ({"num_layers": 2}, "popularity has no setting num_layers"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_network("popularity", {"num_items": 5} | settings)


def test_more_than_one_step_is_refused(network):
    with pytest.raises(ValueError, match="PopRec generates no prompts and takes one step"):
        network.queries(Batch.of([[1]], [0], 10), PromptPlan(num_steps=2))
