"""The first state of a token: item, with what is left of those before it, + position + user + segment, normalised."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.linear import Norm, normed
from model.kernels.packed import LENGTH, START, USER, Packed

TOKENS = 4  # a program


class Past(NamedTuple):
    """The share of earlier items in a token (networks/recgpt.py, `recency`)."""

    share: float  # left from one token to the next
    weight: float  # against a token's own item


class Embeddings(NamedTuple):
    """Tables whose rows add up; all D wide."""

    items: Tensor  # row 0 is padding, the last one START
    positions: Tensor
    users: Tensor  # row 0 is the unknown user
    segments: Tensor  # 0 = real, 1 = generated
    norm: Norm
    max_length: int
    knows_users: bool  # False: everybody is the unknown user
    past: Past | None = None  # None: each token is its own item alone


# Triton compiles a kernel anew for numbers that are 1 or multiples of 16: these two change from batch to batch and from
# bundle to bundle, and a compilation in between would take a request's time many times over
@triton.jit(do_not_specialize=["total", "start_row"])
def _embed(given, generated, items, positions, users, segments, weight, bias, out, passed, share, past_weight, total,
           start_row, LAST: tl.constexpr, STEP: tl.constexpr, LENGTH_AT: tl.constexpr, USER_AT: tl.constexpr,
           START_AT: tl.constexpr, ROWS: tl.constexpr, T: tl.constexpr, NEW: tl.constexpr, USERS: tl.constexpr,
           PAST: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, TOKENS: tl.constexpr):  # fmt: skip
    """ROWS: the column where histories begin; LAST: the longest one; passed (B, D): what the next token gets."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    real, t = token < total, token % T
    own = given + (token // T) * STEP
    length = tl.load(own + LENGTH_AT, mask=real, other=0)
    user = tl.load(own + USER_AT, mask=real & USERS, other=0).to(tl.int64)
    if NEW:
        row = tl.load(generated + token, mask=real, other=0).to(tl.int64)
        # as in generation/prompts.py: no position behind the longest history was ever trained
        position, place = tl.minimum(length + 1, LAST), token
    else:
        # token 0 is START, token t the item in column t - 1
        real = real & (t <= length)
        row = tl.load(own + ROWS + t - 1, mask=real & (t > 0), other=0).to(tl.int64)
        row = tl.where(t == 0, start_row, row)
        position, place = t, tl.load(own + START_AT, mask=real, other=0) + t
    d = tl.arange(0, BD)
    shown = real[:, None] & (d < D)[None, :]
    column = d[None, :]
    x = tl.load(items + row[:, None] * D + column, mask=shown, other=0.0)
    if PAST:
        passed_to = passed + (token // T)[:, None].to(tl.int64) * D + column
        if NEW:
            past = tl.load(passed_to, mask=shown, other=0.0)
        else:
            # every token sums up what is before it, newest first: no order of programs is needed
            past, left = tl.zeros_like(x), share
            for age in range(1, tl.max(tl.where(real, t, 0)) + 1):
                older = real & (age <= t)
                earlier = tl.load(own + ROWS + t - age - 1, mask=older & (age < t), other=0).to(tl.int64)
                earlier = tl.where(age == t, start_row, earlier)
                past += left * tl.load(items + earlier[:, None] * D + column, mask=older[:, None] & shown, other=0.0)
                left = left * share
        # one token a history ends what was read of it
        ends = shown if NEW else shown & (t == length)[:, None]
        tl.store(passed_to, share * (past + x), mask=ends)
        x += past_weight * past
    x += tl.load(positions + position[:, None] * D + column, mask=shown, other=0.0)
    x += tl.load(users + user[:, None] * D + column, mask=shown, other=0.0)
    x += tl.load(segments + NEW * D + d, mask=d < D, other=0.0)[None, :]
    w = tl.load(weight + d, mask=d < D, other=0.0)
    y = normed(x, (d < D)[None, :], w, tl.load(bias + d, mask=d < D, other=0.0), D)
    tl.store(out + place[:, None].to(tl.int64) * D + column, y, mask=shown)


def _run(
    packed: Packed,
    rows_at: int,
    tables: Embeddings,
    num_rows: int,
    generated: Tensor | None,
    passed: Tensor | None,
) -> Tensor:
    past = tables.past or Past(0.0, 0.0)
    D, given = len(tables.norm.weight), packed.given
    length = packed.most if generated is None else 1
    # rows that stay free are computed like others and never read: finite numbers, then
    out, total = torch.zeros(num_rows, D, device=given.device), packed.size * length
    _embed[(triton.cdiv(total, TOKENS),)](
        given, given if generated is None else generated, tables.items, tables.positions, tables.users, tables.segments,
        tables.norm.weight, tables.norm.bias, out, out if passed is None else passed, past.share, past.weight, total,
        len(tables.items) - 1, tables.max_length, packed.step, LENGTH, USER, START, rows_at, length,
        generated is not None, tables.knows_users, tables.past is not None, D, triton.next_power_of_2(D), TOKENS,
        num_warps=4,
    )  # fmt: skip
    return out


def no_past(packed: Packed, tables: Embeddings) -> Tensor | None:
    """(B, D) room for what tokens pass on; None where they pass nothing."""
    return (
        None if tables.past is None else torch.zeros(packed.size, len(tables.norm.weight), device=packed.given.device)
    )


def embed(packed: Packed, rows_at: int, tables: Embeddings, num_rows: int, passed: Tensor | None = None) -> Tensor:
    """(M, D) of START and each history's items, in their rows of M = `num_rows`; others are not written.

    rows_at: the column of `packed.given` where histories begin, oldest items first. passed (B, D), of `no_past`: is
    filled with what each history passes on to the token behind it.
    """
    return _run(packed, rows_at, tables, num_rows, None, passed)


def embed_generated(packed: Packed, rows: Tensor, tables: Embeddings, passed: Tensor | None = None) -> Tensor:
    """(B, D) of one generated item a history, rows (B,): it stands before the unknown next item.

    passed (B, D): what the token before it passed on; then what it passes on itself.
    """
    return _run(packed, 0, tables, packed.size, rows, passed)
