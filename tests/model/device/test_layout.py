"""The integer matrix: what is written, what is refused, what is left from before."""

import numpy as np
import pytest

from model.columns import Columns
from model.device.layout import COUNT, LIMIT, OWN, ROWS, Answers, Layout, fill
from model.kernels.packed import LENGTH, START, TOTAL, USER
from model.records import History

LAYOUT = Layout(max_length=4, max_excluded=3, num_items=50, num_users=2, slots=2)


def filled(columns, before=7):
    matrix = np.full((3, LAYOUT.width), before, dtype=np.int32)
    fill(matrix, LAYOUT, columns)
    return matrix


def test_a_user_is_a_row():
    matrix = filled(Columns.of([History((3, 1, 2), 2), History(())], [5, 6], [{9, 8}, ()]))
    assert matrix[0, [LENGTH, USER, LIMIT, OWN, COUNT]].tolist() == [3, 2, 5, 0, 2]
    assert matrix[0, ROWS : ROWS + 3].tolist() == [3, 1, 2]
    assert sorted(matrix[0, LAYOUT.excluded_at :][:2].tolist()) == [8, 9]
    # the second is empty, the third is nobody
    assert matrix[1:, [LENGTH, USER, OWN, COUNT]].tolist() == [[0, 0, 0, 0]] * 2
    assert matrix[1:, LIMIT].tolist() == [6, 0]


def test_tokens_stand_behind_one_another_with_free_slots():
    matrix = filled(Columns.of([History((3, 1, 2)), History(())], [1, 1], [(), ()]))
    assert matrix[:, START].tolist() == [0, 5, 7]
    assert matrix[:, TOTAL].tolist() == [9, 9, 9]


def test_long_histories_keep_their_newest_items():
    matrix = filled(Columns.of([History((1, 2, 3, 4, 5, 6))], [1], [()]))
    assert matrix[0, LENGTH] == 4
    assert matrix[0, ROWS : ROWS + 4].tolist() == [3, 4, 5, 6]


def test_a_history_that_is_excluded_itself_is_not_written_twice():
    history = History((3, 1, 2))
    matrix = filled(Columns.of([history, History((3, 1, 2))], [1, 1], [history.items, frozenset(history.items)]))
    assert matrix[:2, OWN].tolist() == [3, 0]
    assert matrix[:2, COUNT].tolist() == [0, 3]


@pytest.mark.parametrize("row", [0, -1, 51, 2**31, 2**40])
@pytest.mark.parametrize("place", ["history", "excluded"])
def test_rows_outside_the_catalogue_are_refused(row, place):
    columns = Columns.of([History((row,) if place == "history" else ())], [1], [(row,) if place == "excluded" else ()])
    with pytest.raises(ValueError, match=r"an item row lies outside 1\.\.50"):
        filled(columns)


@pytest.mark.parametrize("user", [-1, 3, 2**40])
def test_users_outside_the_catalogue_are_refused(user):
    with pytest.raises(ValueError, match=r"a user row lies outside 0\.\.2"):
        filled(Columns.of([History((), user)], [1], [()]))


def test_answers_are_compared_to_the_bit():
    answers = Answers(*(np.arange(6.0).reshape(3, 2) for _ in range(5)), np.zeros(3))
    first = Answers(*(column.copy() for column in answers.part(slice(2))))
    assert first.equals(answers.part(slice(2)))
    answers.scores[0, 0] = np.nextafter(0, 1)
    assert not first.equals(answers.part(slice(2)))


HISTORIES = [History((3, 1, 2), 2), History(()), History((7, 7, 9, 4, 5, 6), 1), History((8,))]
EXCLUDED = [{9, 8}, (), HISTORIES[2].items, {8, 1}]


def test_columns_give_back_the_records_they_were_made_of():
    columns = Columns.of(HISTORIES, [1, 2, 3, 4], EXCLUDED)
    histories, limits, excluded = zip(*columns.records(), strict=True)
    assert (list(histories), limits) == (HISTORIES, (1, 2, 3, 4))
    assert [set(rows) for rows in excluded] == [set(rows) for rows in EXCLUDED]
    assert excluded[2] is histories[2].items
    assert columns.num_excluded.tolist() == [2, 0, 6, 2]


@pytest.mark.parametrize("users", [slice(0, 2), slice(1, 4), slice(2, 2), slice(3)])
def test_a_part_of_columns_is_that_of_its_users(users):
    part = Columns.of(HISTORIES, [1, 2, 3, 4], EXCLUDED).part(users)
    alone = Columns.of(HISTORIES[users], [1, 2, 3, 4][users], EXCLUDED[users])
    for column, expected in zip(part, alone, strict=True):
        np.testing.assert_array_equal(column, expected)


def test_joined_and_taken_columns_are_those_of_all_their_users():
    whole = Columns.of(HISTORIES, [1, 2, 3, 4], EXCLUDED)
    joined = Columns.join([whole.part(slice(1)), whole.part(slice(1, 4))])
    taken = whole.take([0, 1, 2, 3])
    for again in (joined, taken):
        for column, expected in zip(again, whole, strict=True):
            np.testing.assert_array_equal(column, expected)


def test_items_cut_off_a_history_stay_excluded():
    history, limit, excluded = Columns.of(HISTORIES, [1, 2, 3, 4], EXCLUDED).newest(3).records()[2]
    assert (history, limit) == (History((4, 5, 6), 1), 3)
    assert set(excluded) == {7, 9, 4, 5, 6}
