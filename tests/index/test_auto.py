"""The choice of an index: exact while it is cheap, else what finds enough, measured; and it says why."""

import numpy as np
import pytest
import torch

from index import auto
from index.auto import IndexRequirements, choose_index, sample_queries
from index.bundle.build import build_bundle
from index.bundle.bundle import open_bundle
from index.evaluate import Probes, recall_of
from index.exact import ExactIndex
from index.factory import list_count
from index.faiss_index import FaissIndex, SearchEffort
from index.next_item import next_item_from
from model.checkpoint import Checkpoint
from model.encoder import UserEncoder
from recall.bench.bundles import Sizes, make_checkpoint

N, D = 4000, 16


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, D))
    return (centres[rng.integers(40, size=N)] + 0.3 * rng.standard_normal((N, D))).astype(np.float32)


@pytest.fixture
def large(monkeypatch):
    """Makes these few items too many for exact search."""
    monkeypatch.setattr(auto, "EXACT_ITEMS", 100)
    monkeypatch.setattr(
        Probes, "query_us", lambda self, index, *_, **__: 1000.0 if isinstance(index, ExactIndex) else 10.0
    )


def test_a_small_catalogue_is_searched_exactly(vectors):
    choice = choose_index(vectors)
    assert isinstance(choice.index, ExactIndex)
    assert "4,000 items are at most 50,000" in choice.reason
    assert choice.trials == ()


@pytest.mark.usefixtures("large")
def test_a_large_one_by_the_fastest_that_finds_enough(vectors):
    said = []
    choice = choose_index(vectors, say=said.append)
    assert isinstance(choice.index, FaissIndex)
    queries = sample_queries(vectors, 200, seed=5)
    recall = recall_of(choice.index.search(queries, 100).rows, ExactIndex(vectors).search(queries, 100).rows)
    assert recall > 0.95
    assert choice.index.spec in choice.reason
    assert len(said) == len(choice.trials) == 3


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("requirements", [IndexRequirements(max_bytes=1000), IndexRequirements(recall_floor=1.01)])
def test_where_none_fits_exact_search_stays_and_says_so(vectors, requirements):
    choice = choose_index(vectors, requirements=requirements)
    assert isinstance(choice.index, ExactIndex)
    assert choice.reason.startswith("exact: no approximate index reaches recall@100")


def test_an_approximate_index_that_is_slower_is_not_taken(vectors, large, monkeypatch):
    monkeypatch.setattr(
        Probes, "query_us", lambda self, index, *_, **__: 10.0 if isinstance(index, ExactIndex) else 1000.0
    )
    assert "none that reaches" in choose_index(vectors).reason


@pytest.mark.parametrize(("num_items", "lists"), [(1, 4), (12_101, 512), (100_000, 1024), (1_000_000, 4096)])
def test_the_lists_of_an_index_grow_with_the_root_of_the_catalogue(num_items, lists):
    assert list_count(num_items) == lists


def test_probes_are_near_items_and_no_items(vectors):
    queries = sample_queries(vectors, 50)
    assert queries.shape == (50, D)
    nearest = np.linalg.norm(vectors[None] - queries[:, None], axis=2).min(1)
    assert nearest.min() > 0
    assert np.median(nearest) < np.median(np.linalg.norm(vectors - vectors.mean(0), axis=1)) * 1.2


def test_a_bundle_with_another_index_generates_by_it_and_replays(tmp_path):
    """Built and opened by the same rule, the golden queries agree."""
    make_checkpoint(Sizes(num_items=400, dim=16, num_layers=1, max_length=10)).save(tmp_path / "checkpoint")
    build_bundle(tmp_path / "checkpoint", tmp_path / "bundle", "HNSW16")
    bundle = open_bundle(tmp_path / "bundle")
    encoder = UserEncoder(Checkpoint.load(bundle.checkpoint_path), next_item=next_item_from(bundle.index))
    bundle.replay(encoder.encode)
    assert set(encoder.num_eager) == {"index_proposes"}


def test_a_single_item_takes_less_effort():
    assert SearchEffort(nprobe=64).for_single_item().nprobe == 8
    assert SearchEffort(nprobe=2).for_single_item().nprobe == 2  # never more than for the whole list


def test_the_next_item_is_mostly_the_best(vectors):
    next_item = next_item_from(FaissIndex.build(vectors, "IVF64,Flat", SearchEffort(nprobe=64)))
    queries = sample_queries(vectors, 50)
    rows = next_item(torch.from_numpy(queries)).numpy()
    assert (rows == ExactIndex(vectors).search(queries, 1).rows[:, 0]).mean() > 0.9
    assert next_item_from(ExactIndex(vectors)) is None
