"""Rows and their file: whole or not at all, each once, and nothing that is not a row."""

import json
import multiprocessing
from dataclasses import replace

import pytest

from recall.reproduction.results import Results, Row

ROW = Row(dataset="d", system="s", recipe="best", seed=0, split="test", metrics={"HR@5": 0.25}, recipe_digest="r")


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "new" / "quality.json")


def test_a_file_that_is_not_there_has_no_rows(results):
    assert results.rows() == []


def test_what_is_appended_is_read(results):
    results.append([ROW, replace(ROW, seed=1)])
    results.append([replace(ROW, system="t")])
    assert results.rows() == [ROW, replace(ROW, seed=1), replace(ROW, system="t")]


def test_the_file_is_a_list_of_mappings_without_empty_values(results):
    results.append([ROW])
    written = json.loads(results.path.read_text())
    assert written == [ROW.to_json()]
    assert set(written[0]) == {"dataset", "system", "recipe", "seed", "split", "metrics", "recipe_digest"}


def test_the_same_measurement_is_kept_once(results):
    results.append([ROW])
    results.append([replace(ROW, metrics={"HR@5": 0.5})])
    assert results.rows() == [ROW]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"split": "valid"},
        {"recipe_digest": "x"},
        {"data_digest": "x"},
        {"point": {"K": 1}},
    ],
    ids=str,
)
def test_what_differs_is_another_measurement(change):
    assert replace(ROW, **change).key != ROW.key


def test_nothing_but_the_rows_stays_in_the_folder(results):
    results.append([ROW])
    assert [path.name for path in results.path.parent.iterdir()] == ["quality.json"]


def append_ten(path, system):
    for seed in range(10):
        Results(path).append([replace(ROW, system=system, seed=seed)])


def test_two_writers_lose_nothing(results):
    jobs = [
        multiprocessing.get_context("fork").Process(target=append_ten, args=(results.path, name)) for name in ("a", "b")
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert sorted((row.system, row.seed) for row in results.rows()) == [(name, n) for name in "ab" for n in range(10)]


def test_a_write_that_fails_leaves_the_file_as_it_was(results, monkeypatch):
    results.append([ROW])
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        results.append([replace(ROW, seed=1)])
    assert results.rows() == [ROW]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "it is not a list"),
        ("[3]", "a row is a mapping, not 3"),
        ("[", "Expecting value"),
        ('[{"dataset": "d"}]', "a row lacks metrics, recipe, seed, split, system"),
        ('[{"dataset": "d", "colour": 1}]', "a row has no colour"),
    ],
)
def test_what_is_no_file_of_rows_is_named(results, text, reason):
    results.path.parent.mkdir()
    results.path.write_text(text)
    with pytest.raises(ValueError, match=rf"quality.json is not a file of rows: .*{reason}"):
        results.rows()
