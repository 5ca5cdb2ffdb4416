"""Small inputs that failed once, through the command: read in the right order, or refused in one right sentence.

The files lie beside the checkout (../shared/cases); tests/model/logs/test_cases.py has the same kinds, written anew.
"""

from pathlib import Path

import pytest

from model.data.sequences import SequenceData

READ = {
    "cr_only.csv": [1, 2, 3],
    "hdr_space.csv": ["a", "b", "c"],
    "iso_time.csv": ["a", "b", "c"],
    "microseconds.parquet": ["a", "b", "c"],
    "one_float_time.csv": ["a", "b", "c", "d"],
    "semicolon.csv": [1, 2, 3, 4],
}
REFUSED = {
    "duration.parquet": "which is no time",
    "id_149_chars.csv": "item id is longer than 128 characters",
    "markup.csv": "line 5: time is not a number: [/b]",
    "mixed_units.csv": "the times mix seconds (line 2: 1700000000) and milliseconds (line 3: 1700000001000)",
    "one_item.csv": "there is nothing to measure",
    "one_null_item.csv": "line 5: item id is missing: NULL",
    "rewatch.csv": "there is nothing to measure",
}


@pytest.fixture(scope="module")
def cases():
    folder = Path(__file__).parents[2].with_name("shared") / "cases"
    if not folder.is_dir():
        pytest.skip(f"needs the inputs in {folder}; they are not part of the project")
    return folder


@pytest.fixture
def prepare(run_recall, cases, tmp_path):
    return lambda name, *words: run_recall("prepare", "--input", cases / name, "--output", tmp_path / "data", *words)


@pytest.mark.parametrize("name", READ)
def test_what_is_a_log_is_read_in_its_order(prepare, tmp_path, name):
    ended = prepare(name)
    assert ended.status == 0, ended.err
    data = SequenceData.load(tmp_path / "data")
    rows = [*data.history(1, "test"), *data.targets(1, "test")]
    assert data.catalogue.items.external([int(row) for row in rows]) == READ[name]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_none_is_refused_in_a_sentence(prepare, tmp_path, name):
    ended = prepare(name)
    assert ended.status == 2
    assert REFUSED[name] in ended.sentence
    assert not (tmp_path / "data").exists()


def test_one_null_word_does_not_turn_the_ids_into_text(prepare):
    ended = prepare("one_null_item.csv", "--max-bad-share", 0.5)
    assert (ended.status, ended.last_line["items"]) == (0, 3)
    assert "item ids: 64-bit integers" in ended.err


def test_a_training_that_diverges_ends_with_its_epoch(run_recall, prepare, cases, tmp_path):
    prepare("semicolon.csv")
    places = ("--data", tmp_path / "data", "--output", tmp_path / "checkpoint", "--recipe", cases / "nan_recipe.yaml")
    ended = run_recall("train", "sasrec", *places)
    assert ended.status == 2
    assert "training diverged: the loss is nan in stage 1, epoch" in ended.err
    assert not (tmp_path / "checkpoint").exists()
