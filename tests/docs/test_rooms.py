"""The picture and the table of rooms: every room stands in both, and the picture leaves out what a chain says."""

import pytest

from docs import rooms

ARROWS = {"recall.bench": {"recall.terminal"}, "recall.terminal": set()}


@pytest.fixture(scope="module")
def files():
    return rooms.read()


def test_an_arrow_that_a_chain_says_is_left_out():
    assert rooms.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_a_room_stands_below_all_that_import_it():
    assert rooms.rows_of({"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"c"}}) == [["a", "d"], ["b"], ["c"]]


def test_a_row_that_is_too_wide_becomes_several():
    rows = rooms.wrapped([str(number) for number in range(15)])
    assert [len(row) for row in rows] == [5, 5, 5]


def test_the_picture_has_every_room_and_floor(files):
    drawn = rooms.picture(rooms.arrows(files))
    assert [room for room in rooms.arrows(files) if f">{room.partition('.')[2] or f'{room}/'}<" not in drawn] == []


def test_the_table_has_every_room_and_arrow(files):
    lines = rooms.table(files).splitlines()
    for room, targets in rooms.arrows(files).items():
        [line] = [
            line
            for line in lines
            if f"(../{room.replace('.', '/')})" in line or f"(../{room.replace('.', '/')}.py)" in line
        ]
        assert all(f"`{target}`" in line for target in targets)


def test_a_cycle_is_named_in_the_order_of_its_arrows():
    assert rooms.cycle({"a": {"b"}, "b": {"a"}}) in (["a", "b", "a"], ["b", "a", "b"])
    assert rooms.cycle(ARROWS) == []
