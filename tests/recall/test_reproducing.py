"""recall reproduce from raw files to rows and a page; recall prepare's cuts; one sentence for a mistake."""

import json

import pytest

from model.checkpoint import Checkpoint
from model.data.splits import TimeCut
from model.logs.events import DataError
from recall.data import read_times


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The layout of the shared data with one data set: circles, a user of one item, one who repeats, ids with gaps."""
    folder = tmp_path_factory.mktemp("raw")
    lines = [f"{user} {' '.join(str(10 + 3 * ((user + n) % 25)) for n in range(9))}" for user in range(1, 41)]
    (folder / "s3rec").mkdir()
    (folder / "s3rec" / "Beauty.txt").write_text("\n".join([*lines, "99 10", "120 10 10 10 10 13"]))
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduced")
    return {"results": folder / "quality.jsonl", "report": folder / "docs" / "results.md", "work": folder / "runs"}


@pytest.fixture(scope="module")
def reproduce(run_recall, raw, places):
    def run(*more):
        options = [word for name, path in places.items() for word in (f"--{name}", path)]
        data = () if "--data" in more else ("--data", raw)
        return run_recall("reproduce", *data, "--device", "cpu", *options, *more)

    return run


@pytest.fixture(scope="module")
def first(reproduce, places):
    bundles = places["work"] / "bundles"
    ended = reproduce("--systems", "popularity,gru4rec", "--seeds", 1, "--max-epochs", 1, "--bundles", bundles)
    assert ended.status == 0, ended.err
    return ended


def test_it_says_what_it_did(first):
    assert (first.last_line["runs"], first.last_line["new_rows"], first.last_line["failed"]) == (2, 2, 0)
    assert "beauty gru4rec best seed 0: HR@5" in first.err


def test_rows_are_in_the_file(first, places):
    rows = [json.loads(line) for line in places["results"].read_text().splitlines()]
    assert [(row["system"], row.get("max_epochs")) for row in rows] == [("popularity", None), ("gru4rec", 1)]
    assert all({"HR@10", "NDCG@10"} <= set(row["metrics"]) for row in rows)
    assert all(len(row["data_digest"]) == len(row["bundle"]) == 64 for row in rows)


def test_the_page_has_what_may_be_reported(first, places):
    page = places["report"].with_name("results-provenance.md").read_text()
    assert places["report"].read_text().startswith("# Results")
    assert "--datasets beauty --systems popularity --recipe best --seeds 1`" in page
    assert "--systems gru4rec" not in page


def test_checkpoints_and_bundles_are_kept(first, places):
    kept = Checkpoint.load(places["work"] / "checkpoints" / "beauty-gru4rec-best-0")
    assert kept.network.kind == "gru4rec"
    assert (places["work"] / "bundles" / "beauty-gru4rec-best-0" / "manifest.json").is_file()


def test_the_journal_tells_the_story(first, places):
    events = [json.loads(line) for line in (places["work"] / "journal.jsonl").read_text().splitlines()]
    story = [event["event"] for event in events if "gru4rec" in event["run"]]
    assert story == ["started", "epoch", "trained", "finished"]


def test_a_second_call_skips_what_is_there(reproduce, first, places):
    before = places["results"].read_bytes()
    ended = reproduce("--systems", "popularity,gru4rec", "--seeds", 1, "--max-epochs", 1)
    assert ended.last_line["new_rows"] == 0
    assert ended.err.count("its rows are there already, skipped") == 2
    assert places["results"].read_bytes() == before


MISTAKES = {
    "unknown data set": (["--datasets", "beuty"], "unknown data set 'beuty'; known are beauty, sports"),
    "data set that is not there": (["--datasets", "yelp"], "the data set yelp is not in"),
    "unknown system": (["--systems", "sasrek"], "has no arm 'sasrek'"),
    "unknown recipe": (["--recipe", "good"], "recipe is paper, best, both, ablation, not 'good'"),
    "no seed": (["--seeds", "0"], "Invalid value for '--seeds'"),
    "no data": (["--data", "nowhere"], "nowhere holds none of"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_sentence(reproduce, name):
    options, reason = MISTAKES[name]
    ended = reproduce(*options)
    assert ended.status == 2, ended.err
    assert reason in ended.sentence


def test_times_to_cut_at():
    assert read_times(None, None) == {}
    assert read_times("0.2,0.1", None) == {"valid_share": 0.2, "test_share": 0.1}
    assert read_times(None, "5,7") == {"cut": TimeCut("5", "7")}


@pytest.mark.parametrize("words", [("0.1", None), (None, "5,6,7"), (None, "a,b"), ("0.1,0.1", "5,7"), (None, "7,5")])
def test_other_cuts_are_refused(words):
    with pytest.raises(DataError):
        read_times(*words)


def test_a_bundle_is_not_measured_where_only_some_items_are_ranked(run_recall, bundles, tiny, tmp_path):
    from dataclasses import replace

    import numpy as np

    replace(tiny, candidates=np.arange(1, 9, dtype=np.int32)).save(tmp_path / "data")
    ended = run_recall("evaluate", "--bundle", bundles["recgpt"], "--data", tmp_path / "data")
    assert ended.status == 2
    assert "ranks 8 of its items, a bundle ranks them all" in ended.sentence


def test_shares_without_a_split_by_time_are_refused(run_recall, raw, tmp_path):
    places = ("--format", "s3rec", "--input", raw / "s3rec" / "Beauty.txt", "--output", tmp_path / "d")
    ended = run_recall("prepare", *places, "--shares", "0.2,0.2")
    assert "belong to the split by-time" in ended.sentence
