"""Exact search on a card: the kernels' candidates, scored in fp32; queries whose proof fails have every item scored.

The same lists as all scores would give, ties in row order, and the same bits in any batch.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.base import Exclusions
from model.kernels.blocks import decode
from model.kernels.score import Excluded, Range
from model.kernels.search import Table, search, search_all

ALL_AT_ONCE = 1 << 27  # scores of all items that are held at once

Best = tuple[NDArray[np.int64], NDArray[np.float32]]


def columns_of(excluded: Exclusions | None, num_queries: int, device: torch.device) -> Excluded | None:
    """The pairs as a matrix: how many, then the rows; its width is a power of 2, so few kernels are compiled."""
    most = excluded.most if excluded is not None else 0
    if excluded is None or not most:
        return None
    width = 1 << (most - 1).bit_length()
    counts = np.bincount(excluded.queries, minlength=num_queries)
    matrix = np.zeros((num_queries, 1 + width), dtype=np.int32)
    matrix[:, 0] = counts
    # pairs are sorted by query
    places = np.arange(len(excluded.rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    matrix[excluded.queries, 1 + places] = excluded.rows
    return Excluded(torch.from_numpy(matrix).to(device), Range(0, 1, width))


def search_on_device(table: Table, vectors: NDArray[np.float32], k: int, excluded: Exclusions | None) -> Best:
    """(Q, k) rows 1 .. N and scores, best first; row 0 and -inf where there is nothing left; k <= N."""
    device, most = table.items.device, excluded.most if excluded is not None else 0
    queries, columns = torch.from_numpy(vectors).to(device), columns_of(excluded, len(vectors), device)
    keys, doubtful = search(queries, table, k, most, columns)
    best = keys[:, :k]
    # one number decides if anything is left to do
    if unsure := doubtful.nonzero()[:, 0].tolist():
        best[unsure] = _score_all(queries[unsure], table, k, most, columns and _rows_of(columns, unsure))[:, :k]
    rows, scores = decode(best)
    return rows.cpu().numpy(), scores.cpu().numpy()


def _rows_of(columns: Excluded, queries: list[int]) -> Excluded:
    return columns._replace(given=columns.given[queries])


def _score_all(queries: Tensor, table: Table, k: int, most: int, excluded: Excluded | None) -> Tensor:
    step = max(ALL_AT_ONCE // len(table.items), 1)
    parts = [
        search_all(
            queries[start : start + step],
            table,
            k,
            most,
            excluded and excluded._replace(given=excluded.given[start : start + step]),
        )
        for start in range(0, len(queries), step)
    ]
    return torch.cat(parts)
