"""Item categories."""

import pytest

from model.catalogue import IdMap
from model.data.categories import encode_categories, read_categories
from model.logs.events import DataError


def rows(ragged):
    return [ragged[row].tolist() for row in range(len(ragged))]


def test_numbers_are_dense_in_order_of_the_attributes():
    assert rows(encode_categories(IdMap.of([5, 7]), {"5": [90, 3], "7": [17]})) == [[0, 2], [1]]


def test_item_without_entry_has_none_and_strangers_take_no_number():
    assert rows(encode_categories(IdMap.of(["a", "b"]), {"x": [1], "b": [8]})) == [[], [0]]


def test_repeated_attribute_counts_once():
    assert rows(encode_categories(IdMap.of([1]), {"1": ["t", "t", 4]})) == [[0, 1]]


@pytest.mark.parametrize("text", ["[1]", '{"1": 2}', '{"1": [[2]]}', '{"1": [1.5]}'])
def test_other_shapes_are_refused(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(DataError, match="must be a JSON object of item -> list"):
        read_categories(path)


def test_broken_json_is_refused(tmp_path):
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(DataError, match=r"c.json cannot be read as JSON"):
        read_categories(tmp_path / "c.json")
