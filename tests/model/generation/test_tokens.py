"""Sequences with generated items between real ones: where each stands, and which position and segment it bears."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from model.generation.kv_cache import KeyValueCache
from model.generation.tokens import Tokens

START = 99


def plain(rows):
    return Tokens.plain(torch.tensor(rows), START)


def test_plain_tokens_begin_with_start_and_count_from_it():
    tokens = plain([[4, 5, 0], [6, 0, 0]])
    assert tokens.rows.tolist() == [[START, 4, 5, 0], [START, 6, 0, 0]]
    assert tokens.positions.tolist() == [[0, 1, 2, 3]] * 2
    assert not tokens.segments.any()


def test_an_empty_history_is_start_alone():
    tokens = plain([[], []])
    assert tokens.rows.tolist() == [[START], [START]]


@given(st.integers(2, 5), st.integers(1, 3), st.integers(1, 3))
def test_prompts_stand_before_the_item_whose_position_they_bear(length, num_prompts, num_users):
    rows = torch.arange(1, num_users * length + 1).view(num_users, length)
    prompts = 1000 + torch.arange(num_users * (length - 1) * num_prompts).view(num_users, length - 1, num_prompts)
    tokens = Tokens.plain(rows, START).interleave(prompts)
    for user in range(num_users):
        expected = [(START, 0, 0), (int(rows[user, 0]), 0, 1)]
        for place in range(1, length):
            expected += [(int(item), 1, place + 1) for item in prompts[user, place - 1]]
            expected.append((int(rows[user, place]), 0, place + 1))
        columns = (part[user].tolist() for part in (tokens.rows, tokens.segments, tokens.positions))
        assert [*zip(*columns, strict=True)] == expected


def test_a_cut_keeps_rows_segments_and_positions_together():
    part = plain([[4, 5, 6]]).cut(1, 3)
    assert (part.rows.tolist(), part.positions.tolist(), part.segments.tolist()) == ([[4, 5]], [[1, 2]], [[0, 0]])


def keys(value, num_tokens):
    return torch.full((2, 1, num_tokens, 3), float(value))


def filled():
    """Two sequences of one layer: three tokens each, of which the second sequence keeps one."""
    cache = KeyValueCache((2, 1, 6, 3), 1, torch.zeros(1))
    cache.reserve(3)
    cache.write(0, cache.slots(3), keys(1, 3), keys(-1, 3))
    cache.advance(3)
    return cache


def test_what_was_written_side_by_side_is_read_up_to_the_width():
    cache = filled()
    assert cache.is_first(3)
    read, values = cache.write(0, cache.slots(0), keys(0, 0), keys(0, 0))
    assert read.shape == (2, 1, 3, 3)
    assert (read == 1).all()
    assert (values == -1).all()


def test_after_a_cut_the_next_token_goes_behind_each_ones_own_last():
    cache = filled()
    cache.cut_to(torch.tensor([3, 1]))
    cache.reserve(1)
    read, values = cache.write(0, cache.slots(1), keys(7, 1), keys(-7, 1))
    assert read[0, 0, :, 0].tolist() == [1, 1, 1, 7]
    assert read[1, 0, :, 0].tolist() == [1, 7, 1, 0]
    assert values[1, 0, 1, 0] == -7
    assert not cache.is_first(1)


def test_slots_follow_the_length_of_each_sequence():
    cache = filled()
    cache.cut_to(torch.tensor([3, 1]))
    assert cache.slots(2).tolist() == [[3, 4], [1, 2]]
