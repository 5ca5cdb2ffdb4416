"""The best items of queries, exactly, without the scores of all: maxima of blocks, the blocks that can matter, keys.

An item among the k best lies in one of the k blocks whose highest scores are highest: each of those holds an item at
least as good. So the scores of the whole catalogue are never written. The maxima may be rough (fp16): candidates are
scored again in fp32, and each query says if the rounding could have hidden a better item; then all items are scored.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from model.kernels.blocks import BLOCK, LAST_ROW, NO_KEY, num_blocks
from model.kernels.halves import raise_by
from model.kernels.maxima import FAN, WIDEST, Maxima, block_maxima
from model.kernels.score import Doubt, Excluded, order, score
from model.kernels.select import LONGEST, Selected, highest, select, select_below, select_keys

SPARE = 8  # blocks looked into beyond those that must be
TALL = 16  # tiles whose highest score is selected first, where there are too many


@dataclass(frozen=True)
class Table:
    """Items prepared for search."""

    items: Tensor  # (N, D) fp32
    rough: Tensor  # the same, or fp16 in whole tiles
    doubt: Doubt
    block: int = BLOCK

    @classmethod
    def plain(cls, items: Tensor) -> "Table":
        """Without a copy: fp32 as it is."""
        items = items.contiguous()
        return cls(items, items, Doubt(float(items.norm(dim=1).max()), 0.0, 1.0, False))

    @classmethod
    def halved(cls, items: Tensor, block: int = BLOCK) -> "Table":
        """With a copy in fp16, where it is narrow enough; the last item fills the last tile, it ties with itself."""
        items = items.contiguous()
        if items.shape[1] > WIDEST:
            return cls.plain(items)
        up = raise_by(float(items.abs().max()))
        rough = torch.empty(
            len(items) + -len(items) % (2 * FAN), items.shape[1], dtype=torch.float16, device=items.device
        )
        torch.mul(items, up, out=rough[: len(items)])
        rough[len(items) :] = rough[len(items) - 1]
        # piece by piece: a second table in fp32 would have to fit beside the first
        off = max(
            float((part - half.float() / up).norm(dim=1).max())
            for part, half in zip(items.split(1 << 20), rough[: len(items)].split(1 << 20), strict=True)
        )
        longest = max(float(part.norm(dim=1).max()) for part in items.split(1 << 20))
        return cls(items, rough, Doubt(longest, off, 1 / up, True), block)


def candidates(maxima: Maxima, block: int, count: int) -> Selected:
    """The `count` blocks of highest maxima; descends from tiles where a row of blocks is too long."""
    if maxima.blocks.shape[1] <= LONGEST // 2:
        return select(maxima.blocks, min(count, maxima.blocks.shape[1]))
    if maxima.tiles.shape[1] <= LONGEST // 2:
        above = select(maxima.tiles, count)
    else:
        top = select(highest(maxima.tiles, TALL), count)
        above = select_below(maxima.tiles, top, TALL, count)
    return select_below(maxima.blocks, above, FAN // block, count)


def search(
    queries: Tensor, table: Table, k: int, num_excluded: int = 0, excluded: Excluded | None = None
) -> tuple[Tensor, Tensor]:
    """Keys (Q, next power of 2 from k on), the k best in order, and (Q,) 1 for queries that are in doubt.

    k <= N. num_excluded: of a query, so that its k best are still among the candidates; more than that may be excluded,
    and then the query may be in doubt.
    """
    queries = queries.contiguous()
    many = num_blocks(len(table.rough), table.block) > LONGEST // 2
    maxima = block_maxima(queries, table.rough, table.block, with_tiles=many)
    # spare blocks leave a lower rest, so fewer queries are in doubt
    chosen = candidates(maxima, table.block, k + num_excluded + SPARE)
    keys = score(queries, table.items, chosen.places, table.block)
    best = select_keys(keys, min(k + num_excluded, keys.shape[1]))
    return order(best, k, queries, chosen.rest, table.doubt, excluded)


def search_all(
    queries: Tensor, table: Table, k: int, num_excluded: int = 0, excluded: Excluded | None = None
) -> Tensor:
    """The same keys, never in doubt: every item is scored, by the same kernel, so with the same bits.

    num_excluded: at least as many as are excluded from one query.
    """
    queries = queries.contiguous()
    blocks = torch.arange(num_blocks(len(table.items), table.block), dtype=torch.int32, device=queries.device)
    keys = score(queries, table.items, blocks.expand(len(queries), -1).contiguous(), table.block)
    best = keys.topk(min(k + num_excluded, len(table.items))).values
    padded = torch.nn.functional.pad(
        best, (0, max(triton.next_power_of_2(best.shape[1]), 16) - best.shape[1]), value=NO_KEY
    )
    # nothing was left out: no query can be in doubt
    nothing = torch.full_like(queries[:, 0], -torch.inf)
    return order(padded, k, queries, nothing, table.doubt, excluded)[0]


def best_rows(queries: Tensor, items: Tensor) -> Tensor:
    """(Q,) int64 rows 0 .. N-1 of the highest inner product, the first of equal ones; items as they are now, no proof.

    Nothing waits for the device: for networks whose table still changes, and inside a capture.
    """
    queries, items = queries.contiguous(), items.contiguous()
    many = num_blocks(len(items)) > LONGEST // 2
    chosen = candidates(block_maxima(queries, items, with_tiles=many), BLOCK, 1 + SPARE)
    return LAST_ROW - (select_keys(score(queries, items, chosen.places), 1)[:, 0] & 0xFFFFFFFF)
