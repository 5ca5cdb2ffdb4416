"""The items that a place of a history is trained to rank."""

from dataclasses import replace

import torch

from model.batch import Batch

BATCH = Batch.of([[4, 9, 4, 7], [8]], [1, 0], 12)


def test_the_target_of_a_place_is_its_item():
    assert BATCH.targets.tolist() == [[[4], [9], [4], [7]], [[8], [0], [0], [0]]]


def test_a_window_goes_on_to_the_end_of_the_history():
    targets = replace(BATCH, window=3).targets
    assert targets[0].tolist() == [[4, 9, 4], [9, 4, 7], [4, 7, 0], [7, 0, 0]]
    assert targets[1, 0].tolist() == [8, 0, 0]


def test_what_stands_in_the_padding_is_no_target():
    dirty = replace(BATCH, window=3, rows=BATCH.rows + 5 * (BATCH.rows == 0))
    assert torch.equal(dirty.targets, replace(BATCH, window=3).targets)


def test_a_batch_keeps_its_window_on_the_way_to_a_device():
    moved = replace(BATCH, window=3).to(torch.device("meta"))
    assert (moved.window, moved.rows.device.type) == (3, "meta")


def test_what_stands_before_the_last_item_holds_neither_it_nor_what_follows():
    """Targets of a window stand behind a history's own length."""
    batch = replace(Batch.of([[5, 6, 7, 8], [9], [], [3, 4]], [0] * 4, 12), lengths=torch.tensor([3, 1, 0, 2]))
    assert batch.before_last.tolist() == [[5, 6, 0, 0], [0] * 4, [0] * 4, [3, 0, 0, 0]]
