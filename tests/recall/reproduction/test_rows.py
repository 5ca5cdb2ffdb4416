"""Rows and their file: whole or not at all, each once, and nothing that is not a row."""

import json
import multiprocessing
import resource
import sys
from dataclasses import replace

import pytest

from recall.reproduction.results import Results, Row, settings_digest

ROW = Row(dataset="d", system="s", recipe="best", seed=0, split="test", metrics={"HR@5": 0.25}, recipe_digest="r")


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "new" / "quality.jsonl")


def test_a_file_that_is_not_there_has_no_rows(results):
    assert results.rows() == []


def test_what_is_appended_is_read(results):
    results.append([ROW, replace(ROW, seed=1)])
    results.append([replace(ROW, system="t")])
    assert results.rows() == [ROW, replace(ROW, seed=1), replace(ROW, system="t")]


def test_the_file_has_a_line_a_row_without_empty_values(results):
    results.append([ROW, replace(ROW, seed=1)])
    lines = results.path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [ROW.to_json(), replace(ROW, seed=1).to_json()]
    assert set(json.loads(lines[0])) == {"dataset", "system", "recipe", "seed", "split", "metrics", "recipe_digest"}


def test_appending_changes_no_line_that_is_there(results):
    results.append([ROW])
    before = results.path.read_bytes()
    results.append([replace(ROW, seed=1)])
    assert results.path.read_bytes().startswith(before)


def test_settings_stand_once_beside_the_rows_by_digest(results):
    settings = {"network": {"dim": 64}, "plan": {"quotas": [7, 3]}}
    rows = [replace(ROW, seed=seed, settings=settings) for seed in range(3)]
    results.append(rows[:2])
    results.append([*rows[2:], replace(ROW, seed=4, settings={"network": {"dim": 32}})])
    named = [json.loads(line)["settings"] for line in results.path.read_text().splitlines()]
    kept = [json.loads(line) for line in results.settings_path.read_text().splitlines()]
    assert named == [settings_digest(settings)] * 3 + [settings_digest({"network": {"dim": 32}})]
    assert kept[0] == {"digest": named[0], "settings": settings}
    assert len(kept) == 2
    assert results.rows()[:3] == rows


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert settings_digest({"a": 1, "b": [2]}) == settings_digest({"b": [2], "a": 1}) != settings_digest({"a": 1})


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
    assert [path.name for path in results.path.parent.iterdir()] == ["quality.jsonl"]


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


def append_with_little_room(path, room):
    """Ends with status 7 when the file may not grow so far."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        Results(path).append([replace(ROW, seed=1), replace(ROW, seed=2)])
    except OSError:
        sys.exit(7)


def test_a_write_that_fails_leaves_the_file_as_it_was(results):
    results.append([ROW])
    before = results.path.read_bytes()
    # room for one of the two rows, and a part of the other
    room = int(len(before) * 2.5)
    job = multiprocessing.get_context("fork").Process(target=append_with_little_room, args=(results.path, room))
    job.start()
    job.join()
    assert (job.exitcode, results.path.read_bytes()) == (7, before)


GOOD = json.dumps(ROW.to_json()) + "\n"
BROKEN = {
    "another kind of line": (GOOD + "[3]\n", r"line 2 is not a row: a row is a mapping, not \[3\]"),
    "no JSON": ("{'dataset'}\n", "line 1 is not JSON: "),
    "a line cut off": (GOOD + GOOD[:40], "line 2 was not written to its end; delete it, and its run is made again"),
    "keys that are missing": ('{"dataset": "d"}\n', "line 1 is not a row: a row lacks metrics, recipe, seed, split"),
    "a key of no row": (GOOD + '{"dataset": "d", "colour": 1}\n', "line 2 is not a row: a row has no colour"),
    "a row twice": (GOOD * 2, r"lines 1 and 2 are the same run \(d s best seed 0 test\); keep one of them"),
    "settings unknown": (
        GOOD.replace("}\n", ', "settings": "ab"}\n'),
        "line 1 has settings 'ab', which .*settings.jsonl",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_file_of_rows_is_one_sentence_with_its_line(results, name):
    text, reason = BROKEN[name]
    results.path.parent.mkdir()
    results.path.write_text(text)
    for act in (results.rows, lambda: results.append([replace(ROW, seed=9)])):
        with pytest.raises(ValueError, match=rf"quality.jsonl: {reason}") as error:
            act()
        assert "\n" not in str(error.value)
    assert results.path.read_text() == text


def test_settings_that_are_none_are_named(results):
    results.append([replace(ROW, settings={"network": {}})])
    results.settings_path.write_text('{"digest": "x"}\n')
    with pytest.raises(ValueError, match=r"settings.jsonl: line 1 is not a digest with its settings"):
        results.rows()
