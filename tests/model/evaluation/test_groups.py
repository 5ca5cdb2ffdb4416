"""Groups of users and of targets, against what was counted by hand."""

import numpy as np
import pytest

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from model.evaluation.groups import GROUPINGS, coverage, groups
from model.evaluation.protocol import EvalSplit


def ragged(*rows: list[int]) -> Ragged:
    return Ragged.of([np.array(row, dtype=np.int32) for row in rows])


@pytest.fixture
def split() -> EvalSplit:
    """Item 1 has four training events, items 2 and 3 three each, 4 none; the histories hold 0, 1, 2 and 7 items."""
    catalogue = Catalogue(IdMap(np.array([10, 20, 30, 40])), IdMap(np.array([7, 8, 9, 11])), np.array([4, 3, 3, 0]))
    train = ragged([], [1], [1, 2], [1, 1, 2, 2, 3, 3, 3])
    valid = ragged([1], [2, 4], [3], [4, 1])
    data = SequenceData("counted", catalogue, train, valid, ragged([1], [1], [1], [1]), "by-time")
    return EvalSplit.of(data, "valid")


def test_users_by_history(split):
    parts = list(groups(split, "history"))
    assert [group.label for group in parts] == ["0", "1 to 3", "7 to 10"]
    assert [group.users.tolist() for group in parts] == [[0], [1, 2], [3]]
    assert [rows.tolist() for rows in parts[1].targets] == [[2, 4], [3]]


def test_targets_by_popularity(split):
    parts = {group.label: group for group in groups(split, "popularity")}
    # events above an item, itself half: 2, 5.5 and 8.5 of 10
    assert {label: group.users.tolist() for label, group in parts.items()} == {
        "3": [0, 3],
        "6": [1],
        "9": [2],
        "without an event": [1, 3],
    }
    assert [rows.tolist() for rows in parts["without an event"].targets] == [[4], [4]]


def test_groups_take_their_own_lists(split):
    lists = np.arange(8).reshape(4, 2)
    last = list(groups(split, "history"))[-1]
    assert last.of(lists).tolist() == [[6, 7]]


@pytest.mark.parametrize("by", GROUPINGS)
def test_no_target_is_lost_or_counted_twice(split, by):
    counted = sum(len(rows) for group in groups(split, by) for rows in group.targets)
    assert counted == sum(len(split.data.targets(user, "valid")) for user in split.users.tolist())


def test_coverage_counts_items_once():
    assert coverage(np.array([[1, 2, 0], [2, 3, 0]]), 4) == 3 / 4
