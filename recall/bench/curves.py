"""`recall bench engine`: microseconds a user of encode, search and merge against catalogue, history and batch.

In one process and thread, without HTTP: what the model path itself costs. The bound beside each point is the time of
the matrix product of the scores alone, measured on the same machine in the same run.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from index.auto import choose_index
from index.evaluate import Probes
from index.exact import ExactIndex
from index.factory import build_index
from index.next_item import next_item_from
from model.encoder import UserEncoder, pin_compute_threads
from model.records import History
from recall.bench.bundles import Sizes, make_checkpoint
from service.engine.compute import BatchCompute
from service.engine.messages import EngineRequest

CATALOGUES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
HISTORIES = (10, 25, 50, 100, 200, 400, 1000)
PROBES = 64  # histories whose query vectors an approximate index is measured with
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement; times are medians, in microseconds a user."""

    num_items: int
    history: int
    batch: int
    index: str
    encode_us: float
    search_us: float
    merge_us: float
    product_us: float  # scores of one query vector alone
    recall: float  # recall@top_n of the index against exact search, for the query vectors of these requests

    @property
    def total_us(self) -> float:
        return self.encode_us + self.search_us + self.merge_us


@dataclass(frozen=True)
class Bench:
    """A computation of given sizes and the requests it gets."""

    sizes: Sizes
    top_n: int = 100
    index: str = "exact"

    def compute(self) -> BatchCompute:
        pin_compute_threads()
        checkpoint = make_checkpoint(self.sizes)
        vectors = UserEncoder(checkpoint).item_vectors().numpy()
        index = choose_index(vectors).index if self.index == "auto" else build_index(vectors, self.index)
        return BatchCompute(UserEncoder(checkpoint, next_item=next_item_from(index)), index, checkpoint.plan)

    def measure(self, compute: BatchCompute, history: int, batch: int, runs: int) -> Point:
        rng = np.random.default_rng(self.sizes.seed)
        rows = rng.integers(1, self.sizes.num_items + 1, (batch, history)).tolist()
        requests = [EngineRequest(History(tuple(r[-self.sizes.max_length :])), self.top_n, frozenset(r)) for r in rows]
        # once for the traces and caches of these shapes: the medians below are of warm runs
        compute.run(requests)
        times = [compute.run(requests)[0].timings_ms for _ in range(runs)]
        encode, search, merge = (
            1e3 * statistics.median(timings[stage] for timings in times) / batch
            for stage in ("encode", "search", "merge")
        )
        return Point(
            num_items=self.sizes.num_items,
            history=history,
            batch=batch,
            index=compute.index.spec,
            encode_us=round(encode, 1),
            search_us=round(search, 1),
            merge_us=round(merge, 1),
            product_us=round(self.product_us(runs), 1),
            recall=round(self.recall(compute), 4),
        )

    def recall(self, compute: BatchCompute) -> float:
        """Recall of the index for the query vectors of random histories."""
        if compute.index.spec == ExactIndex.spec:
            return 1.0
        rng = np.random.default_rng(self.sizes.seed + 1)
        rows = rng.integers(1, self.sizes.num_items + 1, (PROBES, self.sizes.max_length)).tolist()
        queries = compute.encoder.encode([History(tuple(row)) for row in rows]).vectors.reshape(-1, self.sizes.dim)
        exact = ExactIndex(cast(UserEncoder, compute.encoder).item_vectors().numpy())
        return Probes.of(exact, queries, self.top_n).recall(compute.index)

    def product_us(self, runs: int) -> float:
        items = torch.randn(self.sizes.num_items, self.sizes.dim)
        queries, times = torch.randn(16, self.sizes.dim), []
        for _ in range(runs + 1):
            started = time.perf_counter()
            queries @ items.T
            times.append(time.perf_counter() - started)
        # the first product wakes the threads of the library
        return statistics.median(times[1:]) / len(queries) * 1e6


def by_catalogue(sizes: Sizes, catalogues: Sequence[int] = CATALOGUES, runs: int = 5) -> Iterator[Point]:
    """Batches of 16, the index that `auto` chooses."""
    for num_items in catalogues:
        bench = Bench(replace(sizes, num_items=num_items), index="auto")
        yield bench.measure(bench.compute(), sizes.max_length, 16, runs)


def by_history(sizes: Sizes, histories: Sequence[int] = HISTORIES, runs: int = 5) -> Iterator[Point]:
    """Batches of 16, a window as long as the history."""
    for history in histories:
        bench = Bench(replace(sizes, max_length=history))
        yield bench.measure(bench.compute(), history, 16, runs)


def by_batch(sizes: Sizes, batches: Sequence[int] = BATCHES, runs: int = 5) -> Iterator[Point]:
    bench = Bench(sizes)
    compute = bench.compute()
    for batch in batches:
        yield bench.measure(compute, sizes.max_length, batch, runs)
