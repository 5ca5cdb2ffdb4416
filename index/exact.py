"""Brute force in torch, CPU or CUDA: the oracle for every other index, and the default up to some million items."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.base import Hits
from index.hits import check_items, check_search, empty_hits

QUERIES_PER_PASS = {"cpu": 16, "cuda": 256}


class ExactIndex:
    """Every inner product, computed. Equal scores stand in row order, also where k cuts through a tie.

    A pass always has the same number of queries, filled up with zeros: with one compute thread a query's scores are
    the same to the last bit in any batch. Between devices near ties may swap. A pass holds 4 N bytes a query.
    On the CPU a writeable C-contiguous array is shared, not copied: leave it unchanged afterwards.
    """

    spec = "exact"

    def __init__(self, vectors: NDArray[np.float32], device: str = "cpu") -> None:
        check_items(vectors)
        # torch warns about read-only memory, which it cannot represent
        source = np.require(vectors, requirements=["C", "W"])
        self._items = torch.from_numpy(source).to(device)  # (N, D)

    @property
    def num_items(self) -> int:
        return self._items.shape[0]

    @property
    def dim(self) -> int:
        return self._items.shape[1]

    @property
    def num_bytes(self) -> int:
        return self._items.nbytes

    def search(self, vectors: NDArray[np.float32], k: int) -> Hits:
        check_search(vectors, k, self.dim)
        hits = empty_hits(len(vectors), k)
        real = min(k, self.num_items)
        size = QUERIES_PER_PASS[self._items.device.type]
        padded = np.zeros((size, self.dim), dtype=np.float32)
        for start in range(0, len(vectors), size):
            part = slice(start, min(start + size, len(vectors)))
            # what an earlier pass left behind them is computed and not read
            padded[: part.stop - start] = vectors[part]
            rows, scores = self._best(torch.tensor(padded, device=self._items.device), part.stop - start, real)
            hits.rows[part, :real] = rows.cpu().numpy()
            hits.scores[part, :real] = scores.cpu().numpy()
        return hits

    @torch.inference_mode()
    def _best(self, queries: Tensor, num_real: int, k: int) -> tuple[Tensor, Tensor]:
        scores = (queries @ self._items.T)[:num_real]  # (Q, N)
        values, places = scores.topk(min(k + 1, self.num_items))  # one more shows a tie at the cut
        if k < self.num_items:
            tied = values[:, k - 1] == values[:, k]
            for query in tied.nonzero().flatten().tolist():
                places[query, :k] = _first_tied(scores[query], values[query, k - 1], k)
        # ascending rows first, so that the stable sort by score keeps them within a tie
        places = places[:, :k].sort(dim=1).values
        values, order = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
        return places.gather(1, order) + 1, values  # (Q, K) both


def _first_tied(scores: Tensor, lowest: Tensor, k: int) -> Tensor:
    # topk takes any of the items that tie at the cut; rare outside zero queries, so one query at a time will do
    places = (scores >= lowest).nonzero().flatten()
    order = scores[places].sort(descending=True, stable=True).indices[:k]
    return places[order]
