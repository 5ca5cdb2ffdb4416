"""KuaiRec: a small copy made here, and the real one with its floors."""

import json

import numpy as np
import pytest

from model.data.kuairec import read_kuairec
from model.data.prepare import PrepareOptions, prepare
from model.data.sequences import SequenceData
from model.evaluation.protocol import EvalSplit
from model.evaluation.revealed import reveal
from model.logs.events import DataError

PAIRS = {
    "train": [[7, 30], [2, 10], [7, 10], [2, 50]],
    "valid": [[7, 20], [2, 30]],
    "test_pos": [[2, 40], [7, 60], [2, 60]],
    "small_items": [40, 60, 70],
}


@pytest.fixture
def write(tmp_path):
    def write_file(**changes):
        arrays = {name: np.array(value, dtype=np.int32) for name, value in (PAIRS | changes).items() if value}
        np.savez(tmp_path / "kuairec.npz", **arrays)
        return tmp_path / "kuairec.npz"

    return write_file


def external(data, user):
    row = data.catalogue.users.row(user) - 1
    return [data.catalogue.items.external(part[row].tolist()) for part in (data.train, data.valid, data.test)]


def test_pairs_stand_in_the_order_of_the_file(write):
    data, report = read_kuairec(write(), "k")
    assert external(data, 7) == [[30, 10, 20], [], [60]]
    assert external(data, 2) == [[10, 50, 30], [], [40, 60]]
    assert (data.protocol, report.rows_read, report.rows_bad) == ("given", 9, 0)


def test_a_pair_of_train_and_valid_is_trained_on_once(write):
    data, report = read_kuairec(write(valid=[[7, 30], [2, 30]]), "k")
    assert external(data, 7)[0] == [30, 10]
    assert report.rows_bad == 0


def test_a_fifth_of_the_matrix_users_is_for_validation(write):
    matrix = [[user, item] for user in range(10) for item in (40, 60)]
    data, _ = read_kuairec(write(test_pos=matrix), "k")
    again, _ = read_kuairec(write(test_pos=matrix[::-1]), "k")
    chosen = data.users_with_targets("valid").tolist()
    assert len(chosen) == 2
    assert again.users_with_targets("valid").tolist() == chosen
    assert sorted([*chosen, *data.users_with_targets("test").tolist()]) == [*range(1, 11)]


def test_candidates_are_the_small_items_positive_or_not(write):
    data, _ = read_kuairec(write(), "k")
    assert data.catalogue.items.external(data.candidates.tolist()) == [40, 60, 70]


def test_repeated_pairs_are_left_out_and_reported(write):
    data, report = read_kuairec(write(valid=[[7, 20], [7, 20], [2, 30]]), "k")
    assert external(data, 7)[0] == [30, 10, 20]
    assert [str(bad) for bad in report.first_bad] == ["line 6: the pair stands in valid already"]


def test_tags_beside_the_file_are_categories(write, tmp_path):
    (tmp_path / "item_tags.json").write_text(json.dumps({"10": [3], "70": [3, 8]}))
    categories = read_kuairec(write(), "k")[0].catalogue.categories
    assert [categories[row].tolist() for row in range(7)] == [[0], [], [], [], [], [], [0, 1]]


def test_candidates_survive_the_disk(write, tmp_path):
    data, _ = read_kuairec(write(), "k")
    data.save(tmp_path / "data")
    loaded = SequenceData.load(tmp_path / "data")
    assert loaded.candidates.tolist() == data.candidates.tolist()
    assert loaded.digest == data.digest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"small_items": []}, "cannot be read with the arrays train, valid, test_pos, small_items"),
        ({"train": [1, 2, 3]}, r"train is int32 \(3,\); it holds whole numbers \(3, 2\)"),
        ({"test_pos": [[2, 10]]}, "1 videos of test_pos are not in small_items"),
    ],
)
def test_a_file_of_another_form_is_refused(write, changes, reason):
    with pytest.raises(DataError, match=reason):
        read_kuairec(write(**changes), "k")


def test_pickled_objects_are_not_opened(tmp_path):
    np.savez(tmp_path / "k.npz", train=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        read_kuairec(tmp_path / "k.npz", "k")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"k.npz is not a file"):
        read_kuairec(tmp_path / "k.npz", "k")


@pytest.mark.parametrize("options", [{"split": "by-time"}, {"k_core": 2}, {"valid_share": 0.2}], ids=str)
def test_options_without_effect_are_refused(write, options):
    with pytest.raises(DataError, match="kuairec has its own split"):
        prepare(PrepareOptions("kuairec", write(), **options))


@pytest.fixture(scope="module")
def real(shared_data):
    return prepare(PrepareOptions("kuairec", shared_data / "kuairec" / "kuairec_fully_observed.npz"))[0]


@pytest.mark.data
def test_the_real_matrix(real):
    sizes = [len(part.values) for part in (real.train, real.valid, real.test)]
    assert sizes[0] == 96_134 + 36_386
    assert sizes[1] + sizes[2] == 216_147
    assert (len(real.catalogue.users), len(real.candidates)) == (7_176, 3_327)
    assert [len(real.users_with_targets(split)) for split in ("valid", "test")] == [282, 1_129]


def popularity(data, count):
    """NDCG@10 of the candidates with the most positives in the file's train and valid."""
    counts = np.bincount(data.train.values, minlength=len(data.catalogue.items) + 1)
    ranked = data.candidates[np.argsort(-counts[data.candidates], kind="stable")][:200]
    eval_split = EvalSplit.of(reveal(data, count), "test")
    lists = [ranked[~np.isin(ranked, eval_split.data.history(user, "test"))][:10] for user in eval_split.users.tolist()]
    return eval_split.score(np.array(lists, dtype=np.int64), [10])["ndcg@10"]


@pytest.mark.data
@pytest.mark.parametrize(("count", "floor"), [(0, 0.606), (10, 0.568), (20, 0.529), (50, 0.481)])
def test_floors_of_popularity(real, count, floor):
    assert popularity(real, count) == pytest.approx(floor, abs=0.006)
