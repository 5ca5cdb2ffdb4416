"""Revealed positives: drawn by the seed, gone from the targets, and ranked no more; only candidates are ranked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from model.evaluation.protocol import EvalSplit, top_lists
from model.evaluation.revealed import eval_splits, reveal
from model.networks import build_network
from model.records import PromptPlan

N = 40
TEST = [[*range(21, 41)], [21, 22, 23], [25], []]


@pytest.fixture
def data():
    train, valid, test = map(Ragged.of, ([[1, 2], [3], [4, 5], [6]], [[7], [8], [], [9]], TEST))
    catalogue = Catalogue(IdMap.of(range(N)), IdMap.of(range(4)), np.zeros(N, dtype=np.int64))
    return SequenceData("d", catalogue, train, valid, test, "given", np.arange(21, 41, dtype=np.int32))


def told(data, before, user):
    return data.valid[user - 1].tolist()[len(before.valid[user - 1]) :]


@pytest.mark.parametrize(("count", "expected"), [(0, [0, 0, 0, 0]), (5, [5, 1, 0, 0]), (50, [10, 1, 0, 0])])
def test_so_many_are_told_and_half_at_most(data, count, expected):
    assert [len(told(reveal(data, count), data, user)) for user in (1, 2, 3, 4)] == expected


def test_what_is_told_and_what_is_to_be_found_are_the_positives(data):
    revealed = reveal(data, 5)
    for user, positives in enumerate(TEST, start=1):
        known, left = told(revealed, data, user), revealed.test[user - 1].tolist()
        assert sorted(known + left) == positives
        assert not {*known} & {*left}


def test_every_user_stays(data):
    assert reveal(data, 50).users_with_targets("test").tolist() == data.users_with_targets("test").tolist()


def test_the_seed_decides(data):
    first, again, other = (told(reveal(data, 5, seed=seed), data, 1) for seed in (0, 0, 1))
    assert first == again != other


def test_of_the_validation_split_it_is_told_behind_training(data):
    revealed = reveal(replace(data, valid=data.test, test=data.valid), 5, "valid")
    assert revealed.history(1, "valid").tolist()[:2] == [1, 2]
    assert len(revealed.history(1, "valid")) == 7
    assert sorted([*revealed.history(1, "valid").tolist()[2:], *revealed.targets(1, "valid").tolist()]) == TEST[0]
    assert revealed.test.values.tolist() == data.valid.values.tolist()


def test_exams_by_name(data):
    assert [name for name, _ in eval_splits(data, "test")] == ["test", *(f"test, {n} revealed" for n in (10, 20, 50))]
    assert [name for name, _ in eval_splits(replace(data, protocol="by-time"), "valid")] == ["valid"]


def test_the_history_before_stays(data):
    assert reveal(data, 5).history(1, "test").tolist()[:3] == data.history(1, "test").tolist()


def ranked(data, split):
    torch.manual_seed(0)
    network = build_network("sasrec", {"num_items": N, "dim": 8, "max_length": 10}).eval()
    lists = top_lists(network, EvalSplit.of(data, split), PromptPlan(), N).rows[:, 0]
    return [{row for row in rows if row} for rows in lists.tolist()]


def test_the_test_ranks_candidates_only_and_not_what_was_told(data):
    revealed = reveal(data, 5)
    assert ranked(revealed, "test")[0] == {*range(21, 41)} - {*told(revealed, data, 1)}


def test_validation_ranks_candidates_only_and_data_without_candidates_everything(data):
    assert ranked(data, "valid")[0] == {*range(21, 41)}
    assert ranked(replace(data, candidates=None), "test")[0] == {*range(1, 41)} - {1, 2, 7}


def test_candidates_are_part_of_the_digest(data):
    assert data.digest != replace(data, candidates=None).digest
