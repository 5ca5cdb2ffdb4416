"""The closed-form start: counts by hand, factors against a dense decomposition, and a start that ranks."""

import numpy as np
import pytest
import torch

from model.catalogue import Ragged
from model.networks.spectrum import NEARNESS, SHRINK, co_occurrence, factorise, tied_factors

HISTORIES = Ragged.of([[1, 2, 3], [1, 2], [4]])


def test_pairs_are_counted_by_gap_and_shrunk():
    counts = co_occurrence(HISTORIES, 4, backward=0.0).to_dense()
    first = torch.tensor([2 + NEARNESS, 1.0, 0.0, 0.0]) + SHRINK  # as the earlier item of a pair: 1-2 twice, 1-3, 2-3
    second = torch.tensor([0.0, 2.0, 1 + NEARNESS, 0.0]) + SHRINK
    expected = torch.zeros(4, 4)
    expected[0, 1], expected[0, 2], expected[1, 2] = 2.0, NEARNESS, 1.0
    torch.testing.assert_close(counts, expected / (first[:, None] * second).sqrt())


def test_pairs_do_not_cross_histories():
    assert co_occurrence(Ragged.of([[1], [2], [3]]), 3, backward=1.0).to_dense().count_nonzero() == 0


def test_backward_one_is_symmetric():
    counts = co_occurrence(HISTORIES, 4, backward=1.0).to_dense()
    torch.testing.assert_close(counts, counts.T)


def test_all_factors_give_the_matrix_back_up_to_scale():
    rng = np.random.default_rng(0)
    histories = Ragged.of([rng.integers(1, 13, 6).tolist() for _ in range(40)])
    whole = co_occurrence(histories, 12, backward=0.5).to_dense()
    left, right = factorise(histories, 12, 12, backward=0.5)
    product = left @ right.T
    torch.testing.assert_close(product / product.norm(), whole / whole.norm(), atol=1e-4, rtol=1e-3)


def test_a_small_catalogue_leaves_zeros_behind():
    left, right = factorise(HISTORIES, 4, 7, backward=0.5)
    assert left.shape == right.shape == (4, 7)
    assert not left[:, 4:].any()
    assert torch.isfinite(left).all()


def test_one_item_starts_at_a_number():
    assert tied_factors(Ragged.of([[1, 1, 1]]), 1, 4).abs().tolist() == [[1, 0, 0, 0]]


def test_no_pairs_at_all_start_at_zero_not_at_nan():
    assert torch.isfinite(tied_factors(Ragged.of([[1], [2]]), 2, 4)).all()


def test_start_puts_items_that_follow_each_other_close(make_network):
    network = make_network(spectral_start=0.05)
    network.start_from(Ragged.of([[1, 2, 3], [4, 5, 6]] * 9))
    scores = network.item_vectors() @ network.item_vectors().T
    assert scores[0].topk(3).indices.sort().values.tolist() == [0, 1, 2]


def test_start_has_the_spread_that_was_asked_for(make_network):
    rng = np.random.default_rng(0)
    network = make_network("sasrec", spectral_start=0.07)
    network.start_from(Ragged.of([rng.integers(1, 61, 12).tolist() for _ in range(60)]))
    assert abs(float(network.item_vectors().detach().std()) - 0.07) < 1e-4


def test_the_bias_of_bpr_is_no_factor(make_network):
    network = make_network("bpr", spectral_start=0.05)
    network.start_from(HISTORIES)
    assert not network.item_vectors()[:, -1].any()


def test_popularity_has_no_spectral_start(make_network):
    with pytest.raises(ValueError, match="no spectral start"):
        make_network("popularity", dim=1, spectral_start=0.05)
