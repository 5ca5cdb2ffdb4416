"""Exact scores of candidates, as keys; and the best of them in order, without what is excluded, and with a proof."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.blocks import BLOCK, NO_KEY, key_of, row_of, unordered

TOGETHER = 64  # items that one program scores
COMPARED = 64  # excluded items they are compared with at once


class Range(NamedTuple):
    """Columns of a matrix that hold item rows 1 .. N."""

    count_at: int  # column: how many there are
    rows_at: int  # column of the first
    most: int  # columns there are for them


class Excluded(NamedTuple):
    """Items that may not be found, of U users with S queries each: those of both ranges."""

    given: Tensor  # (U, any) int32, contiguous
    first: Range
    second: Range = Range(0, 0, 0)
    queries: int = 1  # S


@triton.jit(do_not_specialize=["N"])
def _score(queries, items, blocks, keys, N, C: tl.constexpr, TB: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
           BLOCK: tl.constexpr, NONE: tl.constexpr):  # fmt: skip
    q, i, d = tl.program_id(1).to(tl.int64), tl.arange(0, TB * BLOCK), tl.arange(0, BD)
    c = tl.program_id(0) * TB + i // BLOCK
    row = row_of(tl.load(blocks + q * C + c, mask=c < C, other=0), i % BLOCK, BLOCK)
    real = (c < C) & (row < N)
    own = real[:, None] & (d < D)[None, :]
    vectors = tl.load(items + row[:, None].to(tl.int64) * D + d[None, :], mask=own, other=0.0)
    # a sum a row, not a product of tiles: `search_all` gives the same bits, whichever items stand beside it
    scores = tl.sum(vectors * tl.load(queries + q * D + d, mask=d < D, other=0.0)[None, :], 1)
    key = tl.where(real, key_of(scores, row), NONE)
    tl.store(keys + q * (C * BLOCK) + c * BLOCK + i % BLOCK, key, mask=c < C)


def score(queries: Tensor, items: Tensor, blocks: Tensor, block: int = BLOCK) -> Tensor:
    """(Q, C * block) keys of the items of each query's blocks (Q, C); NO_KEY behind the last item."""
    (Q, C), D = blocks.shape, queries.shape[1]
    keys = torch.empty(Q, C * block, dtype=torch.int64, device=queries.device)
    together = TOGETHER // block
    _score[(triton.cdiv(C, together), Q)](queries, items, blocks, keys, len(items), C, together, D,
                                          max(triton.next_power_of_2(D), 16), block, NO_KEY, num_warps=4)  # fmt: skip
    return keys


class Doubt(NamedTuple):
    """How far a rough score may be from the exact one."""

    longest: float  # item vector
    off: float  # the longest difference between an item's vector and its rough one
    unit: float  # rough scores times this are scores
    rounded: bool  # queries were rounded to fp16 as well


@triton.jit
def _without(keys, at, COUNT_AT: tl.constexpr, ROWS_AT: tl.constexpr, E: tl.constexpr, ET: tl.constexpr,
             NONE: tl.constexpr):  # fmt: skip
    """NONE in place of the keys of a range's rows."""
    if E > 0:
        row = (0x7FFFFFFF - (keys & 0xFFFFFFFF)).to(tl.int32) + 1
        count = tl.load(at + COUNT_AT)
        for start in range(0, E, ET):
            if start < count:
                e = start + tl.arange(0, ET)
                # rows begin at 1, so the zeros of empty columns match nothing
                out = tl.load(at + ROWS_AT + e, mask=e < count, other=0)
                keys = tl.where(tl.sum((row[:, None] == out[None, :]).to(tl.int32), 1) > 0, NONE, keys)
    return keys


@triton.jit
def _doubt(queries, q, score, rest, longest, off, unit, slack, ROUNDED: tl.constexpr, D: tl.constexpr,
           BD: tl.constexpr):  # fmt: skip
    """1 unless `score` is higher than any that was not looked into can be."""
    d = tl.arange(0, BD)
    asked = tl.load(queries + q * D + d, mask=d < D, other=0.0)
    rough = asked
    if ROUNDED:
        rough = asked.to(tl.float16).to(tl.float32)
    # |q x - q' x'| <= |q - q'| |x| + |q'| |x - x'|, and what the sums of both lose
    lost = tl.sqrt(tl.sum((asked - rough) * (asked - rough), 0))
    error = lost * longest + tl.sqrt(tl.sum(rough * rough, 0)) * (off + slack * longest)
    left = tl.load(rest + q)
    # a comparison with NaN is false: what overflowed is in doubt
    all_seen = (left == float("-inf")) & (error < float("inf"))
    return 1 - (all_seen | (score > left * unit + error)).to(tl.int32)


@triton.jit
def _order(keys, queries, rest, excluded, out, doubtful, longest, off, unit, slack, ROUNDED: tl.constexpr,
           K: tl.constexpr, KP: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr, D: tl.constexpr,
           BD: tl.constexpr, STEP: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, E: tl.constexpr,
           COUNT2: tl.constexpr, ROWS2: tl.constexpr, E2: tl.constexpr, S: tl.constexpr, ET: tl.constexpr,
           NONE: tl.constexpr):  # fmt: skip
    q, i = tl.program_id(0).to(tl.int64), tl.arange(0, KP)
    # S queries behind one another are of one user
    at = excluded + q // S * STEP
    mine = tl.load(keys + q * KP + i)
    mine = _without(_without(mine, at, COUNT, ROWS, E, ET, NONE), at, COUNT2, ROWS2, E2, ET, NONE)
    # all threads of the program see what the others have taken out
    tl.store(keys + q * KP + i, mine)
    tl.debug_barrier()
    place = tl.zeros((KP,), dtype=tl.int32)
    for start in range(0, KP, PART):
        j = start + tl.arange(0, PART)
        other = tl.load(keys + q * KP + j)
        # NONE stands more than once
        above = (other[None, :] > mine[:, None]) | ((other[None, :] == mine[:, None]) & (j[None, :] < i[:, None]))
        place += tl.sum(above.to(tl.int32), 1)
    tl.store(out + q * WIDTH + place, mine, mask=place < WIDTH)
    # fewer than K left give -inf: in doubt, unless there was nothing else to look into
    last = tl.max(tl.where(place == K - 1, mine, NONE), 0)
    score = tl.where(last == NONE, float("-inf"), unordered((last >> 32).to(tl.int32)))
    tl.store(doubtful + q, _doubt(queries, q, score, rest, longest, off, unit, slack, ROUNDED, D, BD))


def order(
    keys: Tensor, count: int, queries: Tensor, rest: Tensor, doubt: Doubt, excluded: Excluded | None = None
) -> tuple[Tensor, Tensor]:
    """(Q, next power of 2) the `count` highest keys (Q, KP) that are not excluded, and (Q,) int32 doubts.

    Takes what is excluded out of `keys`. A doubt is 1 where an item outside the candidates may belong to the highest.
    rest (Q,): the highest rough score of what was not looked into.
    """
    (Q, given), D = keys.shape, queries.shape[1]
    width = min(max(triton.next_power_of_2(count), 16), given)
    out = torch.empty(Q, width, dtype=torch.int64, device=keys.device)
    doubtful = torch.empty(Q, dtype=torch.int32, device=keys.device)
    without = excluded or Excluded(keys, Range(0, 0, 0))
    # sums of D products in 32 bits, rough and exact
    slack = (D + 8) * 2.0**-23
    _order[(Q,)](
        keys, queries, rest, without.given, out, doubtful, doubt.longest, doubt.off, doubt.unit, slack, doubt.rounded,
        count, given, width, min(given, 64), D, max(triton.next_power_of_2(D), 16), without.given.shape[1],
        *without.first, *without.second, without.queries, COMPARED, NO_KEY, num_warps=4 if given <= 128 else 8,
    )  # fmt: skip
    return out, doubtful
