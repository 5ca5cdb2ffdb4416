"""fp32 numbers as the sum of two fp16: three products of tensor cores in place of one that they do not have.

a b = (a' + a'') (b' + b'') without a'' b'': 22 bits of each number, summed in 32. fp16 keeps its 11 bits only in a part
of its range, so numbers are brought there by powers of two, which are exact; bounds on what a layer can give are
computed from its weights, so nothing overflows. Twice as fast as the same with tf32, at the same precision.
Source: Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores", 2022.
"""

import math
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

TOP = 14  # numbers are brought below 2^14; fp16 ends at 2^16


class Halves(NamedTuple):
    """A matrix as unit * (high + low)."""

    high: Tensor  # fp16
    low: Tensor  # fp16
    unit: float


def raise_by(bound: float) -> float:
    """The power of two that brings numbers up to `bound` to 2^13 .. 2^14."""
    # zeros need no unit, and a bound that is no number has none
    return 2.0 ** (TOP - math.ceil(math.log2(bound))) if 0 < bound < math.inf else 1.0


def split(matrix: Tensor) -> Halves:
    up = raise_by(float(matrix.abs().max()))
    scaled = matrix.float() * up
    high = scaled.half()
    return Halves(high, (scaled - high.float()).half(), 1 / up)


@triton.jit
def in_halves(x, up):
    x = x * up
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def dot_halves(a, a_low, b, b_low, sums):
    sums = tl.dot(a_low, b, sums)
    sums = tl.dot(a, b_low, sums)
    return tl.dot(a, b, sums)
