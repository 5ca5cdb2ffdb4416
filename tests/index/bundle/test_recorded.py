"""Golden queries of recorded histories."""

import pytest

from index.bundle.build import MAX_RECORDED, NUM_GOLDEN, build_bundle
from index.bundle.bundle import open_bundle
from model.checkpoint import Checkpoint
from model.encoder import UserEncoder


def test_recorded_histories_are_golden_queries_beside_the_drawn_ones(checkpoints, known, tmp_path):
    said = []
    # in the other form, with items that nobody knows, longer than any window; one without a known item
    recorded = [[str(known[0]), "nowhere", known[1]], ["nowhere"], known[:200]]
    build_bundle(checkpoints["recgpt"], tmp_path / "bundle", say=said.append, recorded=recorded)
    bundle = open_bundle(tmp_path / "bundle")
    assert [golden.items for golden in bundle.golden.histories[NUM_GOLDEN:]] == [(1, 2), tuple(range(161, 201))]
    assert {golden.user for golden in bundle.golden.histories[NUM_GOLDEN:]} == {0}
    assert said == ["2 of 3 recorded histories are golden queries"]
    bundle.replay(UserEncoder(Checkpoint.load(bundle.checkpoint_path)).encode)


def test_the_newest_are_taken_and_none_at_all_is_refused(checkpoints, known, tmp_path):
    recorded = [[known[n], known[n + 1]] for n in range(MAX_RECORDED + 5)]
    build_bundle(checkpoints["comirec"], tmp_path / "bundle", recorded=recorded)
    golden = open_bundle(tmp_path / "bundle").golden.histories[NUM_GOLDEN:]
    assert (len(golden), golden[0].items) == (MAX_RECORDED, (6, 7))
    with pytest.raises(ValueError, match="knows no item of the 1 recorded histories"):
        build_bundle(checkpoints["comirec"], tmp_path / "other", recorded=[["nowhere"]])
