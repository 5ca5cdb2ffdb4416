"""The protocol against a plain loop: what is known is never listed, who is measured, and the lists of any plan."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.catalogue import Ragged
from model.evaluation.protocol import EvalSplit, TopLists, top_lists
from model.networks import build_network
from model.records import PromptPlan, ServingPlan

NUM_ITEMS, NUM_USERS = 300, 50


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    sizes = {"num_items": NUM_ITEMS, "num_users": NUM_USERS, "dim": 8, "max_length": 20}
    return build_network("comirec", sizes | {"num_interests": 2, "dropout": 0.0}).eval()


@pytest.mark.parametrize("split", ["valid", "test"])
def test_what_is_known_of_a_user_is_never_listed(tiny, network, split):
    eval_split = EvalSplit.of(tiny, split)
    lists = top_lists(network, eval_split, PromptPlan(), 40).merged(ServingPlan(), 40)
    for user, listed in zip(eval_split.users.tolist(), lists, strict=True):
        assert not np.isin(listed[listed > 0], tiny.history(user, split)).any()


def test_only_candidates_are_ranked_where_a_data_set_names_them(tiny, network):
    data = replace(tiny, candidates=np.array([3, 5, 8], dtype=np.int32))
    lists = top_lists(network, EvalSplit.of(data, "valid"), PromptPlan(), 10)
    assert {3, 5, 8} <= {*np.unique(lists.rows).tolist()} <= {0, 3, 5, 8}
    assert np.array_equal(lists.rows == 0, np.isneginf(lists.scores))


def test_lists_do_not_depend_on_who_is_measured_beside(tiny, network):
    whole = EvalSplit.of(tiny, "valid")
    few = EvalSplit(tiny, "valid", whole.users[::7])
    rows = top_lists(network, whole, PromptPlan(), 5).rows[::7]
    assert np.array_equal(top_lists(network, few, PromptPlan(), 5).rows, rows)


def test_no_more_is_asked_than_there_are_items(tiny, network):
    assert top_lists(network, EvalSplit.of(tiny, "valid"), PromptPlan(), 10**6).rows.shape[2] == NUM_ITEMS


def test_a_sample_of_users_is_the_same_for_a_seed_and_in_order(tiny):
    first, second = (EvalSplit.of(tiny, "valid", 10, seed).users.tolist() for seed in (1, 1))
    assert first == second == sorted(set(first))
    assert len(first) == 10
    assert first != EvalSplit.of(tiny, "valid", 10, 2).users.tolist()


def test_a_sample_larger_than_the_users_is_all_of_them(tiny):
    assert np.array_equal(EvalSplit.of(tiny, "valid", 10**6).users, EvalSplit.of(tiny, "valid").users)


def test_a_split_without_targets_cannot_be_measured(tiny):
    empty = replace(tiny, valid=Ragged.of([[]] * NUM_USERS))
    with pytest.raises(ValueError, match="data set tiny has no user with a valid target"):
        EvalSplit.of(empty, "valid")


def test_batches_hold_every_user_once_similar_lengths_together(tiny):
    eval_split = EvalSplit.of(tiny, "test")
    places = np.concatenate([*eval_split.batches()]).tolist()
    lengths = [len(tiny.history(int(eval_split.users[place]), "test")) for place in places]
    assert sorted(places) == list(range(len(eval_split.users)))
    assert lengths == sorted(lengths)


def test_a_perfect_list_has_a_recall_of_one(tiny):
    eval_split = EvalSplit.of(tiny, "valid")
    lists = np.array([tiny.targets(user, "valid")[:1] for user in eval_split.users.tolist()])
    assert eval_split.score(lists, [1])["recall@1"] == 1


def test_lists_merged_in_parts_are_those_merged_at_once():
    rng = np.random.default_rng(0)
    rows = np.stack([[rng.permutation(30)[:6] + 1 for _ in range(2)] for _ in range(300)])
    scores = -np.sort(-rng.normal(size=rows.shape).astype(np.float32), axis=2)
    whole = TopLists(rows, scores).merged(ServingPlan(PromptPlan(num_steps=2), quotas=(2, 1)), 5)
    parts = [
        TopLists(rows[n : n + 1], scores[n : n + 1]).merged(ServingPlan(PromptPlan(num_steps=2), quotas=(2, 1)), 5)
        for n in range(0, 300, 37)
    ]
    assert np.array_equal(whole[::37], np.concatenate(parts))
