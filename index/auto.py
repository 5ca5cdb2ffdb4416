"""Chooses an index for a catalogue: exact while it is cheap, then the fastest that finds enough, measured here and now.

Nothing is assumed of an approximate index: each candidate is built over the vectors themselves, its effort raised until
it finds the wanted share of the exact hits, and the fastest of those is taken. All trials are returned with it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from index.base import ItemIndex
from index.evaluate import Probes
from index.exact import ExactIndex
from index.factory import list_count
from index.faiss_index import DEFAULT_EFFORT, FaissIndex, SearchEffort

RECALL_FLOOR = 0.97
GRAPH_ITEMS = 300_000
EXACT_ITEMS = 50_000  # up to here exact search takes less than the network (recall bench engine)
NUM_PROBES, TIMED_QUERIES = 128, 32
EFFORTS = (16, 32, 64, 128, 256, 512)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class IndexRequirements:
    """The recall an index has to reach, and the memory it may take."""

    limit: int = 100  # hits a query
    recall_floor: float = RECALL_FLOOR
    max_bytes: int | None = None  # of the index in memory; None = any


DEFAULT_REQUIREMENTS = IndexRequirements()


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexTrial:
    """One index measured on the probes."""

    spec: str
    effort: SearchEffort
    recall: float  # recall@limit against exact
    query_us: float
    num_bytes: int
    build_s: float

    def fits(self, requirements: IndexRequirements) -> bool:
        small = requirements.max_bytes is None or self.num_bytes <= requirements.max_bytes
        return small and self.recall >= requirements.recall_floor


@dataclass(frozen=True)
class Choice:
    """The index taken, why, and what it was compared with."""

    index: ItemIndex
    reason: str
    trials: Sequence[IndexTrial]


def choose_index(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32] | None = None,
    requirements: IndexRequirements = DEFAULT_REQUIREMENTS,
    say: Say = lambda _: None,
) -> Choice:
    """An index over (N, D) vectors. queries: (Q, D) such as the service will ask, by default items with noise.

    Falls back to exact search, and says so, when no approximate index finds enough within the memory.
    """
    exact = ExactIndex(vectors)
    if exact.num_items <= EXACT_ITEMS:
        return Choice(exact, f"exact: {exact.num_items:,} items are at most {EXACT_ITEMS:,}, where it costs little", ())
    queries = sample_queries(vectors, NUM_PROBES) if queries is None else queries[:NUM_PROBES]
    runner = TrialRunner(vectors, Probes.of(exact, queries, requirements.limit), requirements)
    trials: list[IndexTrial] = []
    best: tuple[FaissIndex, IndexTrial] | None = None
    for spec in specs(exact.num_items):
        # a graph over so many takes minutes to build: only where lists do not find enough
        if best is not None and "HNSW" in spec and exact.num_items > GRAPH_ITEMS:
            continue
        index, row = runner.candidate(spec)
        trials.append(row)
        say(f"{row.spec} {row.effort}: recall {row.recall:.3f}, {row.query_us:.0f} us, {row.num_bytes / 2**20:.0f} MiB")
        if row.fits(requirements) and (best is None or row.query_us < best[1].query_us):
            best = index, row
    base = runner.query_us(exact)
    floor = f"recall@{requirements.limit} of {requirements.recall_floor}"
    if best is None or best[1].query_us >= base:
        why = f"no approximate index reaches {floor}" if best is None else f"none that reaches {floor} is faster"
        return Choice(exact, f"exact: {why}; {base:.0f} us a query", trials)
    row = best[1]
    speed = f"{row.query_us:.0f} us a query against {base:.0f} of exact"
    size = f"{row.num_bytes / 2**20:.0f} MiB, built in {row.build_s:.0f} s"
    return Choice(best[0], f"{row.spec}: recall@{requirements.limit} {row.recall:.3f}, {speed}, {size}", trials)


@dataclass(frozen=True)
class TrialRunner:
    """Builds candidates over the vectors and measures them on the probes."""

    vectors: NDArray[np.float32]
    probes: Probes
    requirements: IndexRequirements

    def query_us(self, index: ItemIndex) -> float:
        return self.probes.query_us(index, TIMED_QUERIES, num_runs=3)

    def candidate(self, spec: str) -> tuple[FaissIndex, IndexTrial]:
        """A kind of index at the lowest effort that finds enough, or at its highest."""
        started = perf_counter()
        built = FaissIndex.build(self.vectors, spec)
        build_s = perf_counter() - started
        for index in efforts(built):
            recall = self.probes.recall(index)
            if recall >= self.requirements.recall_floor:
                break
        row = IndexTrial(
            spec=spec,
            effort=index.effort,
            recall=round(recall, 4),
            query_us=round(self.query_us(index), 1),
            num_bytes=index.num_bytes,
            build_s=round(build_s, 1),
        )
        return index, row


def specs(num_items: int) -> tuple[str, ...]:
    """Factory strings worth trying: a graph, and lists with whole or 8-bit vectors."""
    lists = list_count(num_items)
    return (f"IVF{lists},Flat", f"IVF{lists},SQ8", "HNSW32")


def efforts(index: FaissIndex) -> Iterator[FaissIndex]:
    for effort in EFFORTS:
        # at least as many candidates as hits are wanted (100): a walk that keeps fewer cannot find them all
        yield index.with_effort(replace(DEFAULT_EFFORT, nprobe=effort, ef_search=max(2 * effort, 100)))


def sample_queries(vectors: NDArray[np.float32], num_queries: int, seed: int = 0) -> NDArray[np.float32]:
    """(Q, D) items with noise as long as they are: close to the items, but none of them."""
    rng = np.random.default_rng(seed)
    chosen = vectors[rng.choice(len(vectors), num_queries, replace=len(vectors) < num_queries)]
    noise = rng.standard_normal(chosen.shape).astype(np.float32)
    scale = np.linalg.norm(chosen, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.ascontiguousarray(chosen + noise * scale)
