"""Lists of several queries to one list a user, as `model.merging.merge` makes them: by quotas, or pooled by score.

Here every query has brought as many items as its list is long, so no list is short and nothing is left over.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.blocks import NO_KEY, unordered


class Lists(NamedTuple):
    """Lists of U users, best first; row 0 behind the end of a list that is shorter than the widest."""

    rows: Tensor  # (U, L) int64
    scores: Tensor  # (U, L) fp32
    sources: Tensor  # (U, L) int32, number of the query

    @classmethod
    def empty(cls, users: int, limit: int, device: torch.device) -> "Lists":
        shape = (users, limit)
        return cls(torch.zeros(shape, dtype=torch.int64, device=device), torch.zeros(shape, device=device),
                   torch.zeros(shape, dtype=torch.int32, device=device))  # fmt: skip


class Limits(NamedTuple):
    """How long each user's list shall be."""

    given: Tensor  # (U, any) int32
    column: int


@triton.jit
def _write(rows, scores, sources, at, key, source, mask):
    tl.store(rows + at, 0x7FFFFFFF - (key & 0xFFFFFFFF) + 1, mask=mask)
    tl.store(scores + at, unordered((key >> 32).to(tl.int32)), mask=mask)
    tl.store(sources + at, source, mask=mask)


@triton.jit
def _clear(rows, scores, sources, at, mask):
    tl.store(rows + at, at * 0, mask=mask)
    tl.store(scores + at, (at * 0).to(tl.float32), mask=mask)
    tl.store(sources + at, (at * 0).to(tl.int32), mask=mask)


@triton.jit
def _quotas(keys, shares, limits, rows, scores, sources, LIMIT_AT: tl.constexpr, STEP: tl.constexpr, S: tl.constexpr,
            L: tl.constexpr, KP: tl.constexpr, LP: tl.constexpr):  # fmt: skip
    """shares (L + 1, S): of a list of each length."""
    u, i, p = tl.program_id(0).to(tl.int64), tl.arange(0, KP), tl.arange(0, LP)
    limit = tl.load(limits + u * STEP + LIMIT_AT)
    done = limit * 0
    merged, source = tl.zeros((LP,), dtype=tl.int64), tl.zeros((LP,), dtype=tl.int32)
    for s in range(S):
        mine = tl.load(keys + (u * S + s) * KP + i)
        # an item an earlier step took does not use up a place of this one
        again = ((mine[:, None] & 0xFFFFFFFF) == (merged[None, :] & 0xFFFFFFFF)) & (p < done)[None, :]
        free = (tl.sum(again.to(tl.int32), 1) == 0) & (i < limit)
        share = tl.load(shares + limit * S + s)
        place = tl.cumsum(free.to(tl.int32), 0) - 1
        goes = free & (place < share)
        # no two keys land on one place, so each sum below has one term
        lands = goes[:, None] & ((done + place)[:, None] == p[None, :])
        merged += tl.sum(tl.where(lands, mine[:, None], 0), 0)
        source += tl.sum(tl.where(lands, s, 0), 0)
        done += share
    at = u * L + p
    _write(rows, scores, sources, at, merged, source, (p < limit) & (p < L))
    _clear(rows, scores, sources, at, (p >= limit) & (p < L))


def merge_quotas(keys: Tensor, shares: Tensor, limits: Limits, into: Lists) -> None:
    """keys (U S, KP), each row in order; shares (L + 1, S) int32: places of each step in a list of every length."""
    (users, limit), steps, width = into.rows.shape, shares.shape[1], keys.shape[1]
    _quotas[(users,)](keys, shares, limits.given, *into, limits.column, limits.given.stride(0), steps, limit, width,
                      triton.next_power_of_2(limit), num_warps=8)  # fmt: skip


@triton.jit
def _once(keys, limits, out, LIMIT_AT: tl.constexpr, STEP: tl.constexpr, S: tl.constexpr, KP: tl.constexpr,
          SP: tl.constexpr, PART: tl.constexpr, NONE: tl.constexpr):  # fmt: skip
    """Keys without those whose item stands higher in another query, or behind the limit of their own."""
    u, i = tl.program_id(0).to(tl.int64), tl.arange(0, SP)
    limit = tl.load(limits + u * STEP + LIMIT_AT)
    there = (i < S * KP) & (i % KP < limit)
    mine = tl.load(keys + u * (S * KP) + i, mask=there, other=NONE)
    again = tl.zeros((SP,), dtype=tl.int32)
    for start in range(0, S * KP, PART):
        j = start + tl.arange(0, PART)
        other = tl.load(keys + u * (S * KP) + j, mask=(j < S * KP) & (j % KP < limit), other=NONE)
        same = (mine[:, None] & 0xFFFFFFFF) == (other[None, :] & 0xFFFFFFFF)
        # two queries may give an item the same score: it stays where it stands first
        above = (other[None, :] > mine[:, None]) | ((other[None, :] == mine[:, None]) & (j[None, :] < i[:, None]))
        again += tl.sum((same & above & (other != NONE)[None, :]).to(tl.int32), 1)
    tl.store(out + u * (S * KP) + i, tl.where(again > 0, NONE, mine), mask=i < S * KP)


@triton.jit
def _pool(keys, limits, rows, scores, sources, LIMIT_AT: tl.constexpr, STEP: tl.constexpr, S: tl.constexpr,
          KP: tl.constexpr, SP: tl.constexpr, L: tl.constexpr, LP: tl.constexpr, PART: tl.constexpr,
          NONE: tl.constexpr):  # fmt: skip
    u, i, p = tl.program_id(0).to(tl.int64), tl.arange(0, SP), tl.arange(0, LP)
    limit = tl.load(limits + u * STEP + LIMIT_AT)
    mine = tl.load(keys + u * (S * KP) + i, mask=i < S * KP, other=NONE)
    # keys that are left differ, so the number of higher ones is the place
    place = tl.zeros((SP,), dtype=tl.int32)
    for start in range(0, S * KP, PART):
        j = start + tl.arange(0, PART)
        other = tl.load(keys + u * (S * KP) + j, mask=j < S * KP, other=NONE)
        place += tl.sum((other[None, :] > mine[:, None]).to(tl.int32), 1)
    _write(rows, scores, sources, u * L + place, mine, i // KP, (mine != NONE) & (place < limit))
    _clear(rows, scores, sources, u * L + p, (p >= limit) & (p < L))


def merge_pooled(keys: Tensor, limits: Limits, into: Lists) -> None:
    """keys (U S, KP), each row in order: all in one list by score, each item where it stands first."""
    (users, limit), width = into.rows.shape, keys.shape[1]
    steps = len(keys) // users
    padded = triton.next_power_of_2(steps * width)
    once = torch.empty_like(keys)
    step = limits.given.stride(0)
    _once[(users,)](keys, limits.given, once, limits.column, step, steps, width, padded, 32, NO_KEY, num_warps=8)
    _pool[(users,)](once, limits.given, *into, limits.column, step, steps, width, padded, limit,
                    triton.next_power_of_2(limit), 32, NO_KEY, num_warps=8)  # fmt: skip
