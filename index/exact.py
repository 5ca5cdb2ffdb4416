"""Brute force in torch, CPU or CUDA: the oracle for every other index, and the default up to some million items."""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.base import Exclusions, Hits
from index.checks import check_items, check_search, empty_hits
from model.kernels.block_max import best_items

QUERIES_PER_PASS = {"cpu": 16, "cuda": 256}
SELECTED = 1 << 22  # scores that are selected from at once: NumPy writes 8 bytes for each
FEWER = {"cpu": (4, 8), "cuda": ()}  # a few queries alone need not pay for all, where their scores come out the same


class ExactIndex:
    """Every inner product, computed. Equal scores stand in row order, also where k cuts through a tie.

    A pass has one of few numbers of queries, filled up, and only such as give the same scores to the last bit: with one
    compute thread a query's answer is the same in any batch. Between devices near ties may swap. On the CPU a pass
    holds 4 N bytes a query, on CUDA a sixteenth of that.
    On the CPU a writeable C-contiguous array is shared, not copied: leave it unchanged afterwards.
    """

    spec = "exact"

    def __init__(self, vectors: NDArray[np.float32], device: str = "cpu") -> None:
        check_items(vectors)
        # torch warns about read-only memory, which it cannot represent
        source = np.require(vectors, requirements=["C", "W"])
        self._items = torch.from_numpy(source).to(device)  # (N, D)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, D) on the host; shared on the CPU."""
        found: NDArray[np.float32] = self._items.cpu().numpy()
        return found

    @property
    def num_items(self) -> int:
        return self._items.shape[0]

    @property
    def dim(self) -> int:
        return self._items.shape[1]

    @property
    def num_bytes(self) -> int:
        return self._items.nbytes

    def share(self, table: Tensor) -> bool:
        """Takes a table (N, D) that holds the same numbers in place of its own memory; False where it does not."""
        alike = table.device == self._items.device and table.dtype == self._items.dtype
        if not (alike and table.is_contiguous() and torch.equal(table, self._items)):
            return False
        self._items = table
        # what was proven of the other memory is proven again
        self.__dict__.pop("pass_sizes", None)
        return True

    @cached_property
    def pass_sizes(self) -> tuple[int, ...]:
        """Queries a pass, smallest first: those that give a query the scores of the largest, tried on random ones."""
        device = self._items.device
        probe = torch.randn(QUERIES_PER_PASS[device.type], self.dim, generator=torch.Generator().manual_seed(0))
        whole = self._scores(probe.to(device))

        def is_alike(size: int) -> bool:
            parts = [probe[start : start + size].to(device) for start in range(0, len(probe), size)]
            return torch.equal(torch.cat([self._scores(part) for part in parts]), whole)

        return (*(size for size in FEWER[device.type] if is_alike(size)), len(probe))

    def _scores(self, queries: Tensor, into: Tensor | None = None) -> Tensor:
        """(Q, N) inner products; `into`: a buffer of an earlier pass, used where it fits."""
        num_queries = len(queries)
        if into is None or len(into) < num_queries:
            into = torch.empty(num_queries, self.num_items, device=self._items.device)
        return torch.mm(queries, self._items.T, out=into[:num_queries])

    @torch.inference_mode()
    def search(self, vectors: NDArray[np.float32], k: int, barred: Exclusions | None = None) -> Hits:
        check_search(vectors, k, self.dim)
        hits = empty_hits(len(vectors), k)
        real, device = min(k, self.num_items), self._items.device
        largest = QUERIES_PER_PASS[device.type]
        padded = np.zeros((largest, self.dim), dtype=np.float32)
        queries, scores = torch.from_numpy(padded), torch.empty(0, device=device)  # (Q, D), (Q, N)
        for start in range(0, len(vectors), largest):
            part = slice(start, min(start + largest, len(vectors)))
            num_queries = part.stop - start
            size = next((fewer for fewer in self.pass_sizes if fewer >= num_queries), largest)
            # what an earlier pass left behind them is computed and not read
            padded[:num_queries] = vectors[part]
            own = barred.within(part) if barred else None
            if device.type == "cuda":
                best = best_on_gpu(queries[:size].to(device), self._items, real, own)
            else:
                scores = self._scores(queries[:size], scores)
                best = best_on_cpu(scores[:num_queries].numpy(), real, own)
            hits.rows[part, :real], hits.scores[part, :real] = (found[:num_queries] for found in best)
        # what is barred everywhere else too: fewer than k items may be left
        hits.rows[np.isneginf(hits.scores)] = 0
        return hits


def best_on_cpu(
    scores: NDArray[np.float32], k: int, barred: Exclusions | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(Q, K) rows and scores, best first, ties in row order; scores (Q, N), overwritten where barred; K <= N.

    NumPy's selection uses AVX-512 where there is some: a third of the time of torch's.
    """
    if barred is not None:
        scores[barred.queries, barred.rows - 1] = -np.inf
    together = max(SELECTED // max(scores.shape[1], 1), 1)
    parts = [_best_of(scores[start : start + together], k) for start in range(0, len(scores), together)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([values for _, values in parts])


def _best_of(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    num_items = scores.shape[1]
    # one more shows a tie at the cut
    kept = min(k + 1, num_items)
    places = np.argpartition(scores, num_items - kept, axis=1)[:, num_items - kept :]
    values = np.take_along_axis(scores, places, 1)
    order = np.lexsort((places, -values), axis=1)
    places, values = np.take_along_axis(places, order, 1), np.take_along_axis(values, order, 1)
    if k < num_items:
        # selection takes any of the items that tie at the cut; rare, so one query at a time will do
        for query in np.flatnonzero(values[:, k - 1] == values[:, k]).tolist():
            tied = np.flatnonzero(scores[query] >= values[query, k])
            first = np.lexsort((tied, -scores[query, tied]))[:k]
            places[query, :k] = tied[first]
    return places[:, :k] + 1, values[:, :k]


def best_on_gpu(
    queries: Tensor, items: Tensor, k: int, barred: Exclusions | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same from (Q, D) queries and (N, D) items where they lie, without the scores of all items."""
    most = int(np.bincount(barred.queries).max(initial=0)) if barred is not None else 0
    # one more shows a tie at the cut
    scores, rows = best_items(queries, items, min(k + 1, len(items)), most)
    if barred is not None:
        pairs = torch.from_numpy(barred.queries * len(items) + barred.rows - 1).to(items.device)
        owners = torch.arange(len(rows), device=rows.device)[:, None] * len(items)
        scores = scores.masked_fill(torch.isin(owners + rows, pairs), -torch.inf)
    # rows rise along the candidates, so a stable sort keeps them in row order within a tie
    values, order = scores.sort(dim=1, descending=True, stable=True)
    return (rows.gather(1, order)[:, :k] + 1).cpu().numpy(), values[:, :k].cpu().numpy()
