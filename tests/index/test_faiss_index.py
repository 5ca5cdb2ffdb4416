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
    hits, exact = FaissIndex.build(items, "Flat").search(queries, 50), ExactIndex(items).search(queries, 50)
    np.testing.assert_array_equal(hits.rows, exact.rows)
    np.testing.assert_allclose(hits.scores, exact.scores, rtol=1e-5, atol=1e-5)


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


def saved(index, tmp_path):
    index.save(tmp_path / "index.faiss")
    return np.fromfile(tmp_path / "index.faiss", dtype=np.uint8)


@pytest.mark.parametrize("spec", ["Flat", "IVF16,Flat", "HNSW16", "SQ8", "IVF8,PQ4x4,RFlat"])
def test_saved_and_loaded_is_the_same(items, queries, spec, tmp_path):
    index = FaissIndex.build(items, spec)
    loaded = FaissIndex.parse(saved(index, tmp_path), spec, DEFAULT_EFFORT, items.shape)
    np.testing.assert_array_equal(loaded.search(queries, 10).rows, index.search(queries, 10).rows)
    assert index.num_bytes == (tmp_path / "index.faiss").stat().st_size


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
def test_excluded_items_are_not_found(items, queries, spec):
    rng = np.random.default_rng(3)
    excluded = Exclusions(np.repeat(np.arange(len(queries)), 20), rng.integers(1, len(items) + 1, 20 * len(queries)))
    hits = FaissIndex.build(items, spec, SearchEffort(ef_search=900)).search(queries, 30, excluded)
    expected = ExactIndex(items).search(queries, 30, excluded)
    assert recall_of(hits.rows, expected.rows) > (0.99 if spec == "HNSW32" else 0.999999)
    for query, rows in enumerate(hits.rows.tolist()):
        assert not set(rows) & set(excluded.rows[excluded.queries == query].tolist())


def test_a_query_that_may_find_nothing_finds_nothing(items, queries):
    excluded = Exclusions(np.zeros(len(items), dtype=np.int64), np.arange(1, len(items) + 1))
    hits = FaissIndex.build(items, "Flat").search(queries[:2], 10, excluded)
    assert not hits.rows[0].any()
    assert np.isneginf(hits.scores[0]).all()
    assert hits.rows[1].all()


WIDE = SearchEffort(nprobe=16, ef_search=900, refine=40)
SELECTING = ["Flat", "IVF16,Flat", "HNSW32", "SQ8", "SQ8,RFlat", "IVF16,PQ4x4,RFlat", "OPQ4_16,IVF16,Flat"]
OVERSEARCHING = ["PQ4x4,RFlat", "PQ4x4fs,RFlat", "NSG16"]


@pytest.mark.parametrize("spec", [*SELECTING, *OVERSEARCHING])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_filter_finds_what_exact_search_finds_of_the_allowed_rows(items, queries, spec, share):
    allowed = np.random.default_rng(4).random(len(items)) < share
    expected = ExactIndex(items).search(queries, 10, None, allowed)
    hits = FaissIndex.build(items, spec, WIDE).search(queries, 10, None, allowed)
    assert np.append(True, allowed)[hits.rows].all()
    assert recall_of(hits.rows, expected.rows) > (0.999 if spec in ("Flat", "IVF16,Flat") else 0.9)


@pytest.mark.parametrize("spec", ["Flat", "HNSW32", "PQ4x4fs,RFlat"])
def test_filters_and_exclusions_together(items, queries, spec):
    allowed = np.random.default_rng(4).random(len(items)) < 0.3
    excluded = Exclusions(np.repeat(np.arange(len(queries)), 5), np.tile(np.flatnonzero(allowed)[:5] + 1, len(queries)))
    hits = FaissIndex.build(items, spec, WIDE).search(queries, 10, excluded, allowed)
    permitted = allowed.copy()
    permitted[excluded.rows - 1] = False
    assert np.append(True, permitted)[hits.rows].all()
    assert recall_of(hits.rows, ExactIndex(items).search(queries, 10, excluded, allowed).rows) > 0.9


@pytest.mark.parametrize("spec", ["Flat", "HNSW16", "PQ4x4fs"])
def test_filters_at_their_ends(items, queries, spec):
    index = FaissIndex.build(items, spec)
    nothing = index.search(queries, 7, None, np.zeros(len(items), dtype=bool))
    assert not nothing.rows.any()
    assert np.isneginf(nothing.scores).all()
    plain, everything = index.search(queries, 7), index.search(queries, 7, None, np.ones(len(items), dtype=bool))
    np.testing.assert_array_equal(everything.rows, plain.rows)
    np.testing.assert_array_equal(everything.scores, plain.scores)


def test_a_filter_leaves_the_index_as_it_was(items, queries):
    index = FaissIndex.build(items, "IVF16,Flat")
    before = index.search(queries, 7)
    index.search(queries, 7, None, np.arange(len(items)) < 3)
    np.testing.assert_array_equal(index.search(queries, 7).rows, before.rows)


def test_kinds_without_selectors_look_only_so_deep(items, queries, monkeypatch):
    monkeypatch.setattr("index.faiss_index.MAX_DEPTH", 20)
    few = np.zeros(len(items), dtype=bool)
    few[:5] = True
    hits = FaissIndex.build(items, "PQ4x4fs").search(queries, 4, None, few)
    assert np.append(True, few)[hits.rows].all()
    assert (hits.rows == 0).any()
