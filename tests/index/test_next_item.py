"""The item that is generated through an index: the best one, named with a fraction of the effort."""

import numpy as np
import pytest
import torch

from index.exact import ExactIndex
from index.faiss_index import FaissIndex, SearchEffort
from index.next_item import next_item_from


def test_an_exact_index_names_nothing(items):
    assert next_item_from(ExactIndex(items)) is None


def test_lists_name_the_best_item_of_most_states(items):
    next_item = next_item_from(FaissIndex.build(items, "IVF16,Flat", SearchEffort(nprobe=16)))
    states = torch.from_numpy(items[::9])
    best = (states @ torch.from_numpy(items).T).argmax(1) + 1
    named = next_item(states)
    assert named.dtype == torch.int64
    assert (named == best).float().mean() > 0.9


@pytest.mark.parametrize(("nprobe", "lighter"), [(256, 32), (64, 8), (16, 8), (3, 3)])
def test_a_single_item_takes_an_eighth_of_the_effort_and_never_more_than_all(nprobe, lighter):
    assert SearchEffort(nprobe=nprobe).for_single_item().nprobe == lighter


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "8"])
def test_an_effort_is_a_whole_number_of_at_least_one(wrong):
    with pytest.raises(ValueError, match=r"nprobe is .*; it must be a whole number of at least 1"):
        SearchEffort(nprobe=wrong)


def test_states_of_another_type_are_taken(items):
    next_item = next_item_from(FaissIndex.build(items, "Flat"))
    states = torch.from_numpy(items[:4]).double()
    assert np.array_equal(next_item(states), next_item(states.float()))
