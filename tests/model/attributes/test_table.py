"""The attributes of a catalogue: kept in a file, asked by name, and refused with a sentence."""

import polars as pl
import pytest

from model.attributes.columns import ColumnType, Kind
from model.attributes.table import MAX_ATTRIBUTES, MAX_VALUES, Attributes, BadAttribute

FRAME = pl.DataFrame({"author": [7, None], "tags": [["a"], []], "score": [0.5, 2.0]})


def test_attributes_come_back_from_their_file(tmp_path):
    Attributes(FRAME).save(tmp_path / "items.parquet")
    loaded = Attributes.load(tmp_path / "items.parquet")
    assert loaded.frame.equals(FRAME)
    assert loaded.types == Attributes(FRAME).types


def test_rows_are_counted_from_1():
    assert Attributes(FRAME).items([2, 1]) == [
        {"author": None, "tags": [], "score": 2.0},
        {"author": 7, "tags": ["a"], "score": 0.5},
    ]


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "items.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(BadAttribute, match=r"items\.parquet cannot be read"):
        Attributes.load(tmp_path / "items.parquet")


@pytest.mark.parametrize("name", ["and", "item", "2nd", "a-b", "ü", "x" * 65, ""])
def test_a_name_that_a_filter_cannot_ask_is_refused(name):
    with pytest.raises(BadAttribute, match="an attribute cannot be called"):
        Attributes(pl.DataFrame({name: [1]}))


@pytest.mark.parametrize("values", [[b"x"], [[1.5]], [[True]], [{"a": 1}]])
def test_a_type_without_a_place_is_refused(values):
    with pytest.raises(BadAttribute, match="the attribute x is of the type"):
        Attributes(pl.DataFrame({"x": values}))


def test_there_may_be_so_many_attributes_and_no_more():
    Attributes(pl.DataFrame({f"a{n}": [1] for n in range(MAX_ATTRIBUTES)}))
    with pytest.raises(BadAttribute, match=f"{MAX_ATTRIBUTES + 1} attributes; there may be {MAX_ATTRIBUTES}"):
        Attributes(pl.DataFrame({f"a{n}": [1] for n in range(MAX_ATTRIBUTES + 1)}))


def test_an_unknown_attribute_is_told_those_there_are():
    with pytest.raises(BadAttribute, match="no attribute 'autor'; there are author, tags, score"):
        Attributes(FRAME).column("autor")
    with pytest.raises(BadAttribute, match="there are none"):
        Attributes(pl.DataFrame()).column("x")


def test_new_items_lack_what_they_do_not_say():
    types = {"author": ColumnType(Kind.INTEGER), "tags": ColumnType(Kind.TEXT, is_list=True)}
    new = Attributes.of_items(types, [{"author": 3}, {"tags": ["x", "y"]}])
    assert new.items([1, 2]) == [{"author": 3, "tags": None}, {"author": None, "tags": ["x", "y"]}]


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"autor": 7}, "no attribute 'autor'"),
        ({"author": "7"}, "author: it holds integers"),
        ({"author": [7]}, "author: it holds integers"),
        ({"author": 2**64}, "author: it holds integers, finite and of 64 bits"),
        ({"tags": "a"}, "tags: it holds lists of text"),
        ({"tags": ["a", 1]}, "tags: it holds lists of text"),
        ({"tags": ["a"] * (MAX_VALUES + 1)}, f"tags: at most {MAX_VALUES} values"),
        ({"score": float("nan")}, "score: it holds numbers, finite and of 64 bits"),
    ],
)
def test_a_new_item_with_wrong_values_is_refused(item, sentence):
    with pytest.raises(BadAttribute) as refused:
        Attributes(FRAME).check(item)
    assert str(refused.value).startswith(sentence)


def test_a_new_item_may_have_whole_numbers_for_numbers_and_some_attributes():
    Attributes(FRAME).check({"score": 1, "tags": []})
