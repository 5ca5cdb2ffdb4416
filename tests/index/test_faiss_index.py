"""FAISS against the exact oracle: the same answers where it is exact, a recall floor where it is not."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index.base import Exclusions
from index.evaluate import recall_of
from index.exact import ExactIndex
from index.factory import build_index
from index.faiss_index import DEFAULT_EFFORT, FaissIndex, SearchEffort


def recall(index, items, queries, k=10):
    return recall_of(index.search(queries, k).rows, ExactIndex(items).search(queries, k).rows)


def test_flat_is_exact(items, queries):
    found, exact = FaissIndex.build(items, "Flat").search(queries, 50), ExactIndex(items).search(queries, 50)
    np.testing.assert_array_equal(found.rows, exact.rows)
    np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", ["IVF16,Flat", "HNSW32", "SQ8", "IVF8,SQ8", "IVF8,PQ4x4,RFlat", "RR16,HNSW16"])
def test_recall_floor_on_clustered_items(items, queries, spec):
    assert recall(FaissIndex.build(items, spec, SearchEffort(nprobe=6, refine=40)), items, queries) >= 0.95


@pytest.mark.parametrize("spec", ["Flat", "IVF8,Flat", "HNSW32"])
def test_pads_with_row_0_beyond_n(queries, spec):
    hits = FaissIndex.build(np.eye(16, dtype=np.float32), spec).search(queries, 20)
    assert (hits.rows[:, :16] > 0).all()
    assert (hits.rows[:, 16:] == 0).all()
    assert np.isneginf(hits.scores[:, 16:]).all()


def test_a_search_that_runs_dry_says_row_0(items, queries):
    hits = FaissIndex.build(items, "IVF30,Flat", SearchEffort(nprobe=1)).search(queries, 500)
    assert (hits.rows[:, -1] == 0).all()
    np.testing.assert_array_equal(np.isneginf(hits.scores), hits.rows == 0)


@pytest.mark.parametrize("spec", ["Flat", "IVF8,Flat", "HNSW16", "SQ8"])
def test_rows_are_unique_and_scores_fall(items, queries, spec):
    hits = FaissIndex.build(items, spec).search(queries, 40)
    assert all(len(set(rows)) == 40 for rows in hits.rows.tolist())
    assert (np.diff(hits.scores) <= 0).all()


@pytest.mark.parametrize("spec", ["IVF30,Flat", "RR16,IVF30,Flat"])
def test_nprobe_trades_recall(items, queries, spec):
    low, high = (recall(FaissIndex.build(items, spec, SearchEffort(nprobe=n)), items, queries, 50) for n in (1, 30))
    assert low < high
    assert high > 0.99


def test_ef_search_trades_recall(items, queries):
    low, high = (recall(FaissIndex.build(items, "HNSW4", SearchEffort(ef_search=n)), items, queries) for n in (1, 200))
    assert low < high


def test_refine_trades_recall(items, queries):
    low, high = (
        recall(FaissIndex.build(items, "PQ4x4,RFlat", SearchEffort(refine=n)), items, queries) for n in (1, 40)
    )
    assert low < high


def test_effort_does_not_touch_the_native_index(items, queries):
    index = FaissIndex.build(items, "IVF16,Flat", SearchEffort(nprobe=7))
    index.search(queries, 5)
    assert index.native.nprobe == 1


def test_threads_get_the_answers_of_one(items, queries):
    index = FaissIndex.build(items, "HNSW16")
    expected = index.search(queries, 10).rows
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: index.search(queries, 10).rows, range(40))
    assert all(np.array_equal(rows, expected) for rows in answers)


def test_same_seed_same_index(items, queries):
    first, second = (FaissIndex.build(items, "IVF16,Flat", seed=5).search(queries, 10) for _ in range(2))
    np.testing.assert_array_equal(first.rows, second.rows)


def test_trains_on_a_sample(items, queries, monkeypatch):
    monkeypatch.setattr("index.faiss_index.MAX_TRAIN_ROWS", 500)
    index = FaissIndex.build(items, "IVF4,Flat")
    assert index.num_items == len(items)
    assert recall(index, items, queries) > 0.95


@pytest.mark.parametrize("spec", ["Flat", "IVF16,Flat", "HNSW16", "SQ8", "IVF8,PQ4x4,RFlat"])
def test_saved_and_loaded_is_the_same(items, queries, spec, tmp_path):
    index = FaissIndex.build(items, spec)
    index.save(tmp_path / "index.faiss")
    loaded = FaissIndex.load(tmp_path / "index.faiss", spec, DEFAULT_EFFORT, items.shape)
    np.testing.assert_array_equal(loaded.search(queries, 10).rows, index.search(queries, 10).rows)
    assert index.num_bytes == (tmp_path / "index.faiss").stat().st_size


def saved(index, tmp_path):
    index.save(tmp_path / "index.faiss")
    return np.fromfile(tmp_path / "index.faiss", dtype=np.uint8)


@pytest.mark.parametrize("shape", [(899, 16), (900, 17)])
def test_refuses_another_shape(items, tmp_path, shape):
    with pytest.raises(ValueError, match="holds 900 vectors of width 16"):
        FaissIndex.parse(saved(FaissIndex.build(items, "Flat"), tmp_path), "Flat", DEFAULT_EFFORT, shape)


def test_refuses_another_metric(items, tmp_path):
    faiss = pytest.importorskip("faiss")
    native = faiss.IndexFlatL2(16)
    native.add(items)
    data = saved(FaissIndex("Flat", DEFAULT_EFFORT, native, None), tmp_path)
    with pytest.raises(ValueError, match="not the inner product"):
        FaissIndex.parse(data, "Flat", DEFAULT_EFFORT, items.shape)


def test_refuses_a_claim_of_2_62_vectors(items, tmp_path):
    data = saved(FaissIndex.build(items, "Flat"), tmp_path)
    data[8:16] = np.frombuffer((2**62).to_bytes(8, "little"), dtype=np.uint8)
    with pytest.raises(ValueError, match="FAISS cannot read the index"):
        FaissIndex.parse(data, "Flat", DEFAULT_EFFORT, items.shape)


def test_refuses_lists_in_another_file(items, tmp_path):
    faiss = pytest.importorskip("faiss")
    index = FaissIndex.build(items, "IVF4,Flat")
    lists = faiss.OnDiskInvertedLists(4, 64, str(tmp_path / "elsewhere"))
    lists.merge_from_1(index.native.invlists)
    index.native.replace_invlists(lists)
    with pytest.raises(ValueError, match="lists in another file"):
        FaissIndex.parse(saved(index, tmp_path), "IVF4,Flat", DEFAULT_EFFORT, items.shape)


@pytest.mark.parametrize("spec", ["nonsense", "", "IVF5000,Flat", "IVF4,PQ5", "IDMap,Flat", "LSH"])
def test_a_wrong_spec_is_one_sentence(items, spec):
    with pytest.raises(ValueError, match="FAISS cannot build") as caught:
        FaissIndex.build(items, spec)
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)


def test_absent_faiss_names_the_cure(items, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"install recgpt-recall\[cpu\]"):
        build_index(items, "HNSW32")


def test_the_factory_builds_both_kinds(items):
    assert isinstance(build_index(items), ExactIndex)
    assert build_index(items, "HNSW8").spec == "HNSW8"


def test_stays_on_the_cpu_without_a_gpu(items):
    faiss = pytest.importorskip("faiss")
    if faiss.get_num_gpus():
        pytest.skip("this machine has a GPU")
    index = FaissIndex.build(items, "Flat")
    assert index.to_gpu() is index


@pytest.mark.parametrize("wrong", [{"nprobe": 0}, {"ef_search": 1.5}, {"refine": True}])
def test_effort_is_whole_and_positive(wrong):
    with pytest.raises(ValueError, match="whole number"):
        SearchEffort(**wrong)


@pytest.mark.parametrize("spec", ["Flat", "HNSW32"])
def test_barred_items_are_not_found(items, queries, spec):
    rng = np.random.default_rng(3)
    barred = Exclusions(np.repeat(np.arange(len(queries)), 20), rng.integers(1, len(items) + 1, 20 * len(queries)))
    found = FaissIndex.build(items, spec, SearchEffort(ef_search=900)).search(queries, 30, barred)
    expected = ExactIndex(items).search(queries, 30, barred)
    assert recall_of(found.rows, expected.rows) > (0.99 if spec == "HNSW32" else 0.999999)
    for query, rows in enumerate(found.rows.tolist()):
        assert not set(rows) & set(barred.rows[barred.queries == query].tolist())


def test_a_query_that_may_find_nothing_finds_nothing(items, queries):
    barred = Exclusions(np.zeros(len(items), dtype=np.int64), np.arange(1, len(items) + 1))
    hits = FaissIndex.build(items, "Flat").search(queries[:2], 10, barred)
    assert not hits.rows[0].any()
    assert np.isneginf(hits.scores[0]).all()
    assert hits.rows[1].all()
