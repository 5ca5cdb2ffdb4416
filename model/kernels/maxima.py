"""The highest score of each block of items, and of each tile of blocks; all scores stay on the chip.

Two kernels: one for fp32 tables of any width (tf32x3: three products of tensor cores, an error of 2e-7), one for fp16
tables up to 128 wide, which holds its queries and walks along the items.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.blocks import BLOCK, num_blocks

FAN = 128  # items whose highest score is kept as well, for catalogues too large to select from their blocks
WIDEST = 128  # of a table whose queries are held
FEW = 64  # queries for which a narrow tile is enough
WALKS, LONG_WALKS = 264, 528  # programs that share a table: 2 and 4 a multiprocessor of the card it was measured on


class Tile(NamedTuple):
    queries: int
    items: int
    depth: int
    warps: int
    stages: int


MANY_QUERIES, FEW_QUERIES = Tile(128, 128, 32, 8, 3), Tile(16, 128, 64, 4, 3)
HELD, HELD_FEW, HELD_LONG = Tile(128, 128, 0, 8, 4), Tile(16, 128, 0, 4, 3), Tile(256, 128, 0, 16, 3)
LONG = 1 << 28  # numbers of a table that is read once for twice the queries


class Maxima(NamedTuple):
    """Highest scores of Q queries."""

    blocks: Tensor  # (Q, C)
    tiles: Tensor  # (Q, C / blocks a tile), of FAN items each; (Q, 0) where they are not wanted


@triton.jit
def _keep(scores, out, tops, q, tile, Q, QT: tl.constexpr, IT: tl.constexpr, BLOCK: tl.constexpr, FAN: tl.constexpr,
          NB: tl.constexpr, NT: tl.constexpr):  # fmt: skip
    """scores (QT, IT): stores the maxima of the blocks, and of each FAN columns where NT is not 0."""
    # columns as blocks.py deals them out: group, step of 8 columns, block of 2, place in it
    highest = tl.max(tl.reshape(scores, (QT, IT // (4 * BLOCK), BLOCK // 2, 4, 2)), 4)
    highest = tl.reshape(tl.max(highest, 2), (QT, IT // BLOCK))
    own = (q < Q)[:, None]
    b = tile * (IT // BLOCK) + tl.arange(0, IT // BLOCK)
    tl.store(out + q[:, None].to(tl.int64) * NB + b[None, :], highest, mask=own & (b < NB)[None, :])
    if NT > 0:
        top = tl.max(tl.reshape(highest, (QT, IT // FAN, FAN // BLOCK)), 2)
        t = tile * (IT // FAN) + tl.arange(0, IT // FAN)
        tl.store(tops + q[:, None].to(tl.int64) * NT + t[None, :], top, mask=own & (t < NT)[None, :])


@triton.jit(do_not_specialize=["Q", "N", "groups"])
def _maxima(queries, items, out, tops, Q, N, groups, NB: tl.constexpr, NT: tl.constexpr, D: tl.constexpr,
            QT: tl.constexpr, IT: tl.constexpr, WT: tl.constexpr, BLOCK: tl.constexpr, FAN: tl.constexpr):  # fmt: skip
    # one axis: a second one ends at 65,535 tiles
    q = tl.program_id(0) % groups * QT + tl.arange(0, QT)
    tile = tl.program_id(0) // groups
    n = tile * IT + tl.arange(0, IT)
    scores = tl.zeros((QT, IT), dtype=tl.float32)
    for start in range(0, D, WT):
        d = start + tl.arange(0, WT)
        # rows times width can pass 2^31
        own = (q < Q)[:, None] & (d < D)[None, :]
        left = tl.load(queries + q[:, None].to(tl.int64) * D + d[None, :], mask=own, other=0.0)
        own = (n < N)[None, :] & (d < D)[:, None]
        right = tl.load(items + n[None, :].to(tl.int64) * D + d[:, None], mask=own, other=0.0)
        scores = tl.dot(left, right, scores, input_precision="tf32x3")
    # behind the last item zeros were read, and 0 may be more than every real score
    scores = tl.where((n < N)[None, :], scores, float("-inf"))
    _keep(scores, out, tops, q, tile, Q, QT, IT, BLOCK, FAN, NB, NT)


@triton.jit(do_not_specialize=["Q", "groups", "programs", "tiles"])
def _walk(queries, items, out, tops, Q, groups, programs, tiles, PER: tl.constexpr, NB: tl.constexpr, NT: tl.constexpr,
          D: tl.constexpr, BD: tl.constexpr, QT: tl.constexpr, IT: tl.constexpr, BLOCK: tl.constexpr,
          FAN: tl.constexpr):  # fmt: skip
    """items: fp16, whole tiles."""
    q, d = tl.program_id(0) % groups * QT + tl.arange(0, QT), tl.arange(0, BD)
    own = (q < Q)[:, None] & (d < D)[None, :]
    # rounded to fp16, as the bound of `Doubt.rounded` takes into account
    held = tl.load(queries + q[:, None].to(tl.int64) * D + d[None, :], mask=own, other=0.0).to(tl.float16)
    first = tl.program_id(0) // groups
    for step in range(PER):
        # the last tile again rather than a branch
        tile = tl.minimum(first + step * programs, tiles - 1)
        n = tile * IT + tl.arange(0, IT)
        at = items + n[None, :].to(tl.int64) * D + d[:, None]
        if D == BD:
            right = tl.load(at)
        else:
            right = tl.load(at, mask=(d < D)[:, None], other=0.0)
        scores = tl.dot(held, right)
        _keep(scores, out, tops, q, tile, Q, QT, IT, BLOCK, FAN, NB, NT)


def block_maxima(
    queries: Tensor, items: Tensor, block: int = BLOCK, with_tiles: bool = False, tile: Tile | None = None
) -> Maxima:
    """Maxima of queries (Q, D) fp32 over items (N, D), both contiguous; items fp16: whole tiles of FAN, D <= WIDEST."""
    (Q, D), N, device = queries.shape, len(items), queries.device
    count = num_blocks(N, block)
    num_tiles = -(-count // (FAN // block)) if with_tiles else 0
    out = torch.empty(Q, count, device=device)
    tops = torch.empty(Q, num_tiles, device=device)
    if items.dtype == torch.float16:
        tile = tile or (HELD_FEW if Q <= FEW else HELD_LONG if N * D > LONG and HELD.queries < Q else HELD)
        tiles, groups = triton.cdiv(N, tile.items), triton.cdiv(Q, tile.queries)
        programs = min(tiles, max((LONG_WALKS if N * D > LONG else WALKS) // groups, 1))
        _walk[(groups * programs,)](
            queries, items, out, tops, Q, groups, programs, tiles, triton.cdiv(tiles, programs), count, num_tiles, D,
            max(triton.next_power_of_2(D), 16), tile.queries, tile.items, block, FAN,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        return Maxima(out, tops)
    tile = tile or (MANY_QUERIES if Q > FEW else FEW_QUERIES)
    groups = triton.cdiv(Q, tile.queries)
    _maxima[(groups * triton.cdiv(N, tile.items),)](
        queries, items, out, tops, Q, N, groups, count, num_tiles, D, tile.queries, tile.items, tile.depth, block, FAN,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return Maxima(out, tops)
