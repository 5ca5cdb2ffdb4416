"""Tables of items: their columns become attributes of the rows that a log's items have."""

import json

import polars as pl
import pytest

from model.data.prepare import PrepareOptions, prepare
from model.data.sequences import SequenceData
from model.logs.events import DataError

LOG = "user,item,time\n" + "".join(f"{user},{item},{user + item}\n" for user in range(5) for item in range(4))


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


def prepared(log, items=None, **more):
    data, report = prepare(PrepareOptions(input=log, items=items, **more))
    return data.catalogue.attributes, report


def written(tmp_path, text, name="items.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_columns_of_a_table_become_attributes_in_the_order_of_rows(log, tmp_path):
    table = written(tmp_path, "video_id,author,uploaded,title\n3,7,2024-01-02,c\n0,9,1970-01-01,\n99,1,2024-01-01,x\n")
    attributes, report = prepared(log, table)
    assert attributes.frame.to_dict(as_series=False) == {
        "author": [9, None, None, 7],
        "uploaded": [0, None, None, 1_704_153_600_000],
        "title": [None, None, None, "c"],
    }
    sentence = "attributes of 2 of 4 items: author (integers), uploaded (integers), title (text)"
    assert sentence in report.notes


def test_parquet_and_json_lines_keep_lists(log, tmp_path):
    lines = [json.dumps({"item": item, "tags": [item, 5]}) for item in range(4)]
    attributes, _ = prepared(log, written(tmp_path, "\n".join(lines), "items.jsonl"))
    attributes.frame.with_columns(item=pl.Series(range(4))).write_parquet(tmp_path / "items.parquet")
    again, _ = prepared(log, tmp_path / "items.parquet")
    assert attributes.frame.equals(again.frame)
    assert attributes.column("tags").any_of([2]).tolist() == [False, False, True, False]


def test_categories_are_an_attribute_unless_the_table_has_one(log, tmp_path):
    categories = written(tmp_path, json.dumps({"1": ["x", "y"], "2": ["y"]}), "categories.json")
    attributes, _ = prepared(log, categories=categories)
    assert attributes.frame["category"].to_list() == [[], ["x", "y"], ["y"], []]
    table = written(tmp_path, "item,category\n0,z\n")
    assert prepared(log, table, categories=categories)[0].frame["category"].to_list() == ["z", None, None, None]


def test_a_prepared_folder_keeps_its_attributes_and_loses_old_ones(log, tmp_path):
    table = written(tmp_path, "item,author\n0,9\n")
    data, _ = prepare(PrepareOptions(input=log, items=table))
    data.save(tmp_path / "data")
    assert SequenceData.load(tmp_path / "data").catalogue.attributes.types == data.catalogue.attributes.types
    plain, _ = prepare(PrepareOptions(input=log))
    plain.save(tmp_path / "data")
    assert SequenceData.load(tmp_path / "data").catalogue.attributes is None
    assert data.digest == plain.digest


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        ("author\n7\n", "items.csv", "has no column of item ids"),
        ("item,author\n1,7\n1,8\n", "items.csv", "several rows of the item 1"),
        ("item,author\nx,7\n", "items.csv", "ids that are no Int64"),
        ("item,not\n1,7\n", "items.csv", "cannot be called 'not'"),
        ("item,author\n1,7\n", "items.txt", "a table of items is .parquet"),
        ("", "items.parquet", "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(log, tmp_path, text, name, sentence):
    with pytest.raises(DataError, match=sentence):
        prepared(log, written(tmp_path, text, name))


@pytest.mark.data
def test_kuairand_brings_authors_categories_and_durations(shared_data):
    data, _ = prepare(PrepareOptions(format="kuairand", input=shared_data / "kuairand_pure"))
    attributes = data.catalogue.attributes
    assert {"author", "category", "duration_ms"} <= {*attributes.types}
    assert attributes.column("author").known.all()
    assert (attributes.column("duration_ms").numbers > 0).mean() > 0.9
