"""`recall bench index`: every kind of index on one catalogue: recall against exact, latency, memory, time to build."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from index.auto import sample_queries
from index.evaluate import Probes, SizedIndex
from index.exact import ExactIndex
from index.factory import list_count
from index.faiss_index import FaissIndex, SearchEffort

K = 100
BATCH = 64
SINGLE_RUNS = 32  # calls with one query; the median counts


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """One index at one effort."""

    spec: str
    effort: str
    recall: float  # recall@100 against exact
    single_us: float  # a query alone, the same again and again
    batch_us: float  # a query of 64
    megabytes: float
    build_s: float


def bench_index(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> Iterator[IndexRow]:
    """vectors: (N, D); queries: (Q, D), at least 64. Exact first, it is the oracle."""
    started = perf_counter()
    exact = ExactIndex(vectors)
    built = perf_counter() - started
    probes = Probes.of(exact, queries, K)
    yield measure(exact, "", probes, built)
    for spec, efforts in specs(len(vectors)):
        started = perf_counter()
        index = FaissIndex.build(vectors, spec)
        built = perf_counter() - started
        for effort in efforts:
            yield measure(index.with_effort(effort), describe(spec, effort), probes, built)


def specs(num_items: int) -> Iterator[tuple[str, Sequence[SearchEffort]]]:
    """Flat, lists, graphs, and quantised vectors with and without exact re-ranking."""
    lists = list_count(num_items)
    probes = [SearchEffort(nprobe=n) for n in (16, 64, 256) if n <= lists]
    yield "Flat", [SearchEffort()]
    yield f"IVF{lists},Flat", probes
    yield f"IVF{lists},SQ8", probes
    yield "HNSW32", [SearchEffort(ef_search=n) for n in (128, 256, 512)]
    yield "PQ16x4fs,RFlat", [SearchEffort(refine=n) for n in (4, 16)]


def describe(spec: str, effort: SearchEffort) -> str:
    if "IVF" in spec:
        return f"nprobe {effort.nprobe}"
    if "HNSW" in spec:
        return f"ef_search {effort.ef_search}"
    return f"refine {effort.refine}" if "RFlat" in spec else ""


def measure(index: SizedIndex, effort: str, probes: Probes, build_s: float) -> IndexRow:
    return IndexRow(
        spec=index.spec,
        effort=effort,
        recall=round(probes.recall(index), 4),
        single_us=round(probes.query_us(index, 1, num_runs=SINGLE_RUNS), 1),
        batch_us=round(probes.query_us(index, BATCH), 1),
        megabytes=round(index.num_bytes / 2**20, 1),
        build_s=round(build_s, 2),
    )


def clustered(num_items: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """(N, D) vectors in clusters of about 100, as learnt item tables are; plain noise would be the hardest case."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, num_items // 100), dim), dtype=np.float32)
    vectors = centres[rng.integers(0, len(centres), num_items)]
    vectors += 0.5 * rng.standard_normal(vectors.shape, dtype=np.float32)
    return vectors


def of_bundle(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A bundle's item vectors, and query vectors: its golden queries, and items with noise to fill up."""
    from index.bundle.bundle import open_bundle

    bundle = open_bundle(folder)
    queries = np.concatenate([bundle.golden.flat_vectors, sample_queries(bundle.vectors, 4 * BATCH)])
    return bundle.vectors, queries
