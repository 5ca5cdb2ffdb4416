"""One attribute of all items: its codes give back its values, row by row, whatever its type."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.attributes.columns import Column, ColumnType, Kind, is_finite

INTEGERS = st.integers(-(2**63), 2**63 - 1)
SINGLE = {
    Kind.INTEGER: INTEGERS,
    Kind.NUMBER: st.floats(allow_nan=False, allow_infinity=False),
    Kind.FLAG: st.booleans(),
    Kind.TEXT: st.text(max_size=5),
}
LISTS = {Kind.INTEGER: INTEGERS, Kind.TEXT: st.text(max_size=5)}


def column(values, column_type):
    return Column(pl.Series("x", values, dtype=column_type.dtype), column_type)


def values_of(own, row):
    return [own.values[code - 1] for code in own.of_row(row).tolist()]


@pytest.mark.parametrize("kind", SINGLE)
@given(data=st.data())
def test_codes_give_back_single_values(kind, data):
    values = data.draw(st.lists(st.none() | SINGLE[kind], max_size=8))
    own = column(values, ColumnType(kind))
    assert len(own) == len(values)
    assert own.known.tolist() == [value is not None for value in values]
    assert [values_of(own, row) for row in range(1, len(values) + 1)] == [
        [] if value is None else [value] for value in values
    ]


@pytest.mark.parametrize("kind", LISTS)
@given(data=st.data())
def test_codes_give_back_lists_without_what_they_hold_of_nothing(kind, data):
    values = data.draw(st.lists(st.none() | st.lists(st.none() | LISTS[kind], max_size=4), max_size=8))
    own = column(values, ColumnType(kind, is_list=True))
    kept = [[member for member in value or [] if member is not None] for value in values]
    assert own.known.tolist() == [bool(members) for members in kept]
    assert [values_of(own, row) for row in range(1, len(values) + 1)] == kept


def test_the_code_of_a_value_that_no_item_has_is_0():
    own = column(["b", "a", None], ColumnType(Kind.TEXT))
    assert [own.code(value) for value in ("a", "b", "z")] == [1, 2, 0]


@pytest.mark.parametrize(
    ("kind", "value", "taken"),
    [
        (Kind.INTEGER, True, False),
        (Kind.INTEGER, 1.0, False),
        (Kind.NUMBER, 1, True),
        (Kind.NUMBER, False, False),
        (Kind.FLAG, 1, False),
        (Kind.TEXT, 7, False),
        (Kind.TEXT, "7", True),
    ],
)
def test_true_is_no_number_and_a_number_no_text(kind, value, taken):
    assert ColumnType(kind).takes(value) is taken


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        (Kind.INTEGER, 2**63 - 1, True),
        (Kind.INTEGER, 2**63, False),
        (Kind.INTEGER, -(2**63), True),
        (Kind.NUMBER, float("inf"), False),
        (Kind.NUMBER, float("nan"), False),
        (Kind.NUMBER, 10**400, False),
        (Kind.TEXT, "x" * 999, True),
    ],
)
def test_what_64_bits_cannot_hold_is_not_kept(kind, value, kept):
    assert ColumnType(kind).keeps(value) is kept


@pytest.mark.parametrize("kind", [Kind.NUMBER, Kind.FLAG])
def test_lists_are_of_integers_or_text(kind):
    assert ColumnType.of(ColumnType(kind, is_list=True).dtype) is None
    assert ColumnType.of(ColumnType(kind).dtype) == ColumnType(kind)


@pytest.mark.parametrize("value", ["1", None, [1]])
def test_what_is_no_number_is_not_finite(value):
    assert not is_finite(value)
