"""Causal attention: of all tokens of a history, and of one token against keys and values that were kept.

Tokens carry query, key and value of H heads: (3, H, W) numbers. Tiles of keys begin with a history, so what stands
around it does not change its bits.
Source: the running softmax of FlashAttention, Dao 2022.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.packed import LENGTH, START, Packed

TILE = 64  # tokens


class Heads(NamedTuple):
    heads: int  # H
    width: int  # W

    @property
    def dim(self) -> int:
        """All numbers of a token's answer."""
        return self.heads * self.width

    @property
    def padded(self) -> int:
        return max(1 << (self.width - 1).bit_length(), 16)  # tl.dot wants 16 at least


@triton.jit
def _attend(tokens, given, out, scale, STEP: tl.constexpr, LENGTH_AT: tl.constexpr, START_AT: tl.constexpr,
            MOST: tl.constexpr, ROW: tl.constexpr, H: tl.constexpr, W: tl.constexpr, WP: tl.constexpr,
            TILE: tl.constexpr):  # fmt: skip
    """ROW: numbers of a token, 3 H W."""
    # a row's place is counted in 64 bits: rows times the width of a token can pass 2^31
    b, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    T = tl.load(given + b * STEP + LENGTH_AT) + 1
    # the grid is that of the longest history that may come: most programs of a short one end here
    if tl.program_id(2) * TILE >= T:
        return
    begin = tl.load(given + b * STEP + START_AT).to(tl.int64)
    t, w = tl.program_id(2) * TILE + tl.arange(0, TILE), tl.arange(0, WP)
    real = (t < T)[:, None] & (w < W)[None, :]
    at = tokens + begin * ROW + head * W
    q = tl.load(at + t[:, None] * ROW + w[None, :], mask=real, other=0.0) * scale
    top = tl.full((TILE,), float("-inf"), dtype=tl.float32)
    total, sums = tl.zeros((TILE,), dtype=tl.float32), tl.zeros((TILE, WP), dtype=tl.float32)
    for start in range(0, MOST, TILE):
        # tiles of keys behind the last query hold nothing that is seen
        if start <= tl.program_id(2) * TILE:
            s = start + tl.arange(0, TILE)
            own = (s < T)[:, None] & (w < W)[None, :]
            k = tl.load(at + H * W + s[:, None] * ROW + w[None, :], mask=own, other=0.0)
            v = tl.load(at + 2 * H * W + s[:, None] * ROW + w[None, :], mask=own, other=0.0)
            # what lies behind the end of a history is the future of every real query, and taken out as such
            scores = tl.dot(q, tl.trans(k), input_precision="tf32x3")
            scores = tl.where(s[None, :] <= t[:, None], scores, float("-inf"))
            # what was summed so far shrinks to the new maximum; every query sees key 0, so that is a number from the
            # first tile on, and -inf is never subtracted from itself
            higher = tl.maximum(top, tl.max(scores, 1))
            p = tl.exp(scores - higher[:, None])
            shrink = tl.exp(top - higher)
            total = total * shrink + tl.sum(p, 1)
            sums = tl.dot(p, v, sums * shrink[:, None], input_precision="tf32x3")
            top = higher
    # an answer is a third as wide as a token, which is query, key and value
    at = out + (begin + t[:, None]) * (ROW // 3) + head * W + w[None, :]
    tl.store(at, sums / total[:, None], mask=real)


def attend(tokens: Tensor, heads: Heads, packed: Packed) -> Tensor:
    """(M, H W) of tokens (M, 3 H W)."""
    out = torch.empty(len(tokens), heads.dim, device=tokens.device)
    grid = (packed.size, heads.heads, triton.cdiv(packed.most, TILE))
    _attend[grid](tokens, packed.given, out, heads.width**-0.5, packed.step, LENGTH, START, packed.most, 3 * heads.dim,
                  heads.heads, heads.width, heads.padded, TILE, num_warps=4)  # fmt: skip
    return out


@triton.jit
def _attend_one(own, kept, given, out, scale, STEP: tl.constexpr, LENGTH_AT: tl.constexpr, START_AT: tl.constexpr,
                AFTER: tl.constexpr, NEW: tl.constexpr, MOST: tl.constexpr, ROW: tl.constexpr, H: tl.constexpr,
                W: tl.constexpr, WP: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    b, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    # START has slot 0, so the last item of a history has its length
    slot = tl.load(given + b * STEP + LENGTH_AT) + AFTER
    w = tl.arange(0, WP)
    real = w < W
    at = kept + tl.load(given + b * STEP + START_AT).to(tl.int64) * ROW + head * W
    # a new token is a row of its own matrix; one that was kept stands among the others
    mine = own + b * ROW + head * W + w if NEW else at + slot * ROW + w
    q = tl.load(mine, mask=real, other=0.0) * scale
    key, value = tl.load(mine + H * W, mask=real, other=0.0), tl.load(mine + 2 * H * W, mask=real, other=0.0)
    # for later steps alone: here key and value are in registers already
    if NEW:
        tl.store(at + slot * ROW + H * W + w, key, mask=real)
        tl.store(at + slot * ROW + 2 * H * W + w, value, mask=real)
    # the token itself first: then the maximum is a number from the start
    top = tl.sum(q * key, 0)
    total, sums = top * 0.0 + 1.0, value
    for start in range(0, MOST, TILE):
        if start < slot:
            s = start + tl.arange(0, TILE)
            seen = (s < slot)[:, None] & real[None, :]
            k = tl.load(at + H * W + s[:, None] * ROW + w[None, :], mask=seen, other=0.0)
            v = tl.load(at + 2 * H * W + s[:, None] * ROW + w[None, :], mask=seen, other=0.0)
            scores = tl.where(s < slot, tl.sum(k * q[None, :], 1), float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 0))
            p = tl.exp(scores - higher)
            shrink = tl.exp(top - higher)
            total = total * shrink + tl.sum(p, 0)
            sums = sums * shrink + tl.sum(p[:, None] * v, 0)
            top = higher
    tl.store(out + b * (ROW // 3) + head * W + w, sums / total, mask=real)


def attend_one(kept: Tensor, heads: Heads, packed: Packed, after: int = 0, own: Tensor | None = None) -> Tensor:
    """(B, H W) of one token a history: `after` rows behind its last real one.

    kept (M, 3 H W). own (B, 3 H W): the token is new, its key and value are written to its row.
    """
    out = torch.empty(packed.size, heads.dim, device=kept.device)
    _attend_one[(packed.size, heads.heads)](
        kept if own is None else own, kept, packed.given, out, heads.width**-0.5, packed.step, LENGTH, START, after,
        own is not None, packed.most + after, 3 * heads.dim, heads.heads, heads.width, heads.padded, TILE, num_warps=4,
    )  # fmt: skip
    return out
