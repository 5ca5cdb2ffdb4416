"""The places of the C highest numbers of a row, without sorting: the C-th is upper by counting what is above a guess.

A row stands in the registers of one program: a few counts cost less than the passes over memory of a radix selection,
and the kept places come out in order of their place.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.blocks import NO_KEY, unordered

LONGEST = 16_384  # numbers of a row that one program holds
LARGEST = tl.constexpr(1e38)  # of a score


class Selected(NamedTuple):
    """Places in Q rows."""

    places: Tensor  # (Q, C) int32
    rest: Tensor  # (Q,) the highest number that was not selected; -inf where all were


@triton.jit
def _bisect(x, there, C: tl.constexpr):
    """The C-th highest of x: guesses halve the distance until so many are not lower, mostly after some 15 counts."""
    finite = there & (x > float("-inf"))
    low = tl.min(tl.where(finite, x, float("inf")), 0)
    top = tl.max(tl.where(there, x, float("-inf")), 0)
    count = tl.sum(finite.to(tl.int32), 0)
    # too few: all of them, and then any of the others
    low = tl.where(count < C, float("-inf"), low)
    # above the highest by two units of its last place (2^-22), or by the least normal number where it is 0
    high = top + tl.abs(top) * 2.4e-7 + 1.2e-38
    # halved before they are added: the sum of two large scores may be infinite
    guess = low * 0.5 + high * 0.5
    while (count != C) & (guess > low) & (guess < high):
        above = tl.sum((there & (x >= guess)).to(tl.int32), 0)
        count = tl.where(above >= C, above, count)
        low = tl.where(above >= C, guess, low)
        high = tl.where(above >= C, high, guess)
        guess = low * 0.5 + high * 0.5
    # a guess lies between two scores: the lowest of those above it is the one asked for
    return tl.min(tl.where(there & (x >= low), x, float("inf")), 0)


@triton.jit
def _places(kept, tied, count):
    """The place of each kept element: all `kept` in order, then those that tie until `count` are there."""
    sure = tl.sum(kept.to(tl.int32), 0)
    # both counts in one scan; neither reaches 2^16
    before = tl.cumsum((kept.to(tl.int32) << 16) + tied.to(tl.int32), 0)
    place = tl.where(kept, (before >> 16) - 1, sure + (before & 0xFFFF) - 1)
    return place, kept | (tied & (place < count))


@triton.jit(do_not_specialize=["stride", "n"])
def _select(values, parents, out, rest, known, stride, n, C: tl.constexpr, NP: tl.constexpr, PARENTS: tl.constexpr,
            FAN: tl.constexpr, KNOWN: tl.constexpr):  # fmt: skip
    q, i = tl.program_id(0).to(tl.int64), tl.arange(0, NP)
    if PARENTS > 0:
        there = i < PARENTS * FAN
        child = tl.load(parents + q * PARENTS + i // FAN, mask=there, other=0) * FAN + i % FAN
        there = there & (child < n)
    else:
        child, there = i, i < n
    x = tl.load(values + q * stride + child, mask=there, other=float("-inf"))
    # whatever overflowed: the guesses want numbers between which there is a middle
    x = tl.where(x == x, tl.minimum(x, LARGEST), float("-inf"))  # noqa: PLR0124  (NaN)
    least = _bisect(x, there, C)
    place, kept = _places(there & (x > least), there & (x == least), C)
    tl.store(out + q * C + place, child, mask=kept & (place < C))
    left = tl.max(tl.where(there & ~kept, x, float("-inf")), 0)
    if KNOWN:
        left = tl.maximum(left, tl.load(known + q))
    tl.store(rest + q, left)


def _run(values: Tensor, count: int, above: Selected | None, fan: int) -> Selected:
    rows, n = values.shape
    num_parents = above.places.shape[1] if above else 0
    length = num_parents * fan if above else n
    places = torch.empty(rows, count, dtype=torch.int32, device=values.device)
    rest = torch.empty(rows, device=values.device)
    parents, known = above if above else (places, rest)
    _select[(rows,)](values, parents, places, rest, known, values.stride(0), n, count, triton.next_power_of_2(length),
                     num_parents, fan, above is not None, num_warps=8 if length > 2048 else 4)  # fmt: skip
    return Selected(places, rest)


def select(values: Tensor, count: int) -> Selected:
    """The `count` highest of each row of values (Q, n), n <= LONGEST; of equal ones the first; count <= n."""
    return _run(values, count, None, 1)


def select_below(values: Tensor, above: Selected, fan: int, count: int) -> Selected:
    """The same among the children of selected places: place p has children p * fan .. p * fan + fan - 1."""
    return _run(values, count, above, fan)


@triton.jit(do_not_specialize=["n", "m"])
def _highest(values, out, n, m, F: tl.constexpr, MT: tl.constexpr):
    q, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * MT + tl.arange(0, MT)
    j = i[:, None] * F + tl.arange(0, F)[None, :]
    x = tl.load(values + q * n + j, mask=j < n, other=float("-inf"))
    tl.store(out + q * m + i, tl.max(x, 1), mask=i < m)


def highest(values: Tensor, fan: int) -> Tensor:
    """(Q, ceil(n / fan)) the highest of each `fan` numbers of a row (Q, n)."""
    rows, n = values.shape
    m = triton.cdiv(n, fan)
    out = torch.empty(rows, m, device=values.device)
    _highest[(rows, triton.cdiv(m, 128))](values, out, n, m, fan, 128, num_warps=4)
    return out


@triton.jit(do_not_specialize=["n"])
def _select_keys(keys, out, n, K: tl.constexpr, KP: tl.constexpr, NP: tl.constexpr, NONE: tl.constexpr,
                 MOST: tl.constexpr):  # fmt: skip
    q, i = tl.program_id(0).to(tl.int64), tl.arange(0, NP)
    x = tl.load(keys + q * n + i, mask=i < n, other=NONE)
    there = x > NONE
    scores = unordered((x >> 32).to(tl.int32))
    scores = tl.where(scores == scores, tl.minimum(scores, LARGEST), float("-inf"))  # noqa: PLR0124  (NaN)
    upper = there & (scores >= _bisect(scores, there, K))
    # scores that tie at the cut: the keys themselves, bit by bit
    count, least = tl.sum(upper.to(tl.int32), 0), tl.min(tl.where(upper, x, MOST), 0)
    bit = tl.full((), 1 << 31, dtype=tl.int64)
    first = least & -4294967296
    while (count > K) & (bit > 0):
        above = tl.sum((upper & (x >= first + bit)).to(tl.int32), 0)
        first = tl.where(above >= K, first + bit, first)
        bit = bit >> 1
    kept = upper & (x >= first)
    place = tl.cumsum(kept.to(tl.int32), 0) - 1
    tl.store(out + q * KP + place, x, mask=kept & (place < KP))
    k = tl.arange(0, KP)
    tl.store(out + q * KP + k, NONE, mask=k >= tl.sum(kept.to(tl.int32), 0))


def select_keys(keys: Tensor, count: int) -> Tensor:
    """(Q, next power of 2) the `count` highest of each row of keys (Q, n), in no order; NO_KEY behind them."""
    rows, n = keys.shape
    width = max(triton.next_power_of_2(count), 16)
    out = torch.empty(rows, width, dtype=torch.int64, device=keys.device)
    _select_keys[(rows,)](keys, out, n, count, width, triton.next_power_of_2(n), NO_KEY, 2**63 - 1,
                          num_warps=8 if n > 1024 else 4)  # fmt: skip
    return out
