"""The best items without the scores of all: the highest of each block of items first, then the blocks that can matter.

An item among the k best lies in one of the k blocks whose highest scores are highest: each of those blocks holds an
item at least as good. So the scores of the whole catalogue (Q, N) are never written; on CUDA a Triton kernel keeps them
in registers and writes one number a block. On other devices, and where Triton is missing, torch does it in pieces.
"""

import torch
from torch import Tensor

BLOCK = 16  # items whose highest score is kept: what is written is a sixteenth of all scores
PIECE = 1 << 22  # scores that torch writes at once
GATHERED = 1 << 25  # numbers of item vectors that are copied at once, behind the scenes of `best_items`


def block_maxima(queries: Tensor, items: Tensor) -> Tensor:
    """(Q, ceil(N / BLOCK)) highest inner product of each block; queries (Q, D), items (N, D) of one type and device.

    Products are summed in 32 bits whatever the type of the vectors.
    """
    # whole blocks, so that none is cut between two pieces
    step = max(PIECE // max(len(queries), 1) // BLOCK, 1) * BLOCK
    return torch.cat([_of_piece(queries, items[start : start + step]) for start in range(0, len(items), step)], 1)


def best_items(queries: Tensor, items: Tensor, k: int, num_excluded: int = 0) -> tuple[Tensor, Tensor]:
    """Scores and row numbers 0 .. N-1 of candidates; among them are, for each query, its k best.

    Both (Q, C), rows rising, C >= k; a place without an item has -inf. The k best stay among them when
    any `num_excluded` items of each query are taken out: so many more blocks are looked into.
    """
    maxima = block_maxima(queries, items)
    # sorted, so that rows rise: a stable sort of the scores then leaves equal ones in row order
    blocks = maxima.topk(min(k + num_excluded, maxima.shape[1])).indices.sort(1).values  # (Q, C / BLOCK)
    rows = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=blocks.device)).flatten(1)
    step = max(GATHERED // max(rows.shape[1] * items.shape[1], 1), 1)
    parts = [slice(start, start + step) for start in range(0, len(rows), step)]
    scores = [_scores_of(queries[part], items, rows[part]) for part in parts]
    return torch.cat(scores) if scores else rows.float(), rows


def _scores_of(queries: Tensor, items: Tensor, rows: Tensor) -> Tensor:
    """(Q, C) inner products with the items of each query's own rows (Q, C); -inf where a row lies behind the last."""
    # places behind the last item read that item, and lose its score below
    vectors = items[rows.clamp(max=len(items) - 1)].float()  # (Q, C, D)
    scores = torch.bmm(vectors, queries.float()[:, :, None])[:, :, 0]
    return scores.masked_fill(rows >= len(items), -torch.inf)


def _of_piece(queries: Tensor, items: Tensor) -> Tensor:
    scores = queries.float() @ items.float().T
    missing = -len(items) % BLOCK
    return torch.nn.functional.pad(scores, (0, missing), value=-torch.inf).view(len(queries), -1, BLOCK).amax(2)
