"""Linear layers whose answer for a row does not depend on the other rows; GELU or layer normalisation fused to them."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.halves import dot_halves, in_halves, raise_by, split
from model.kernels.packed import LENGTH, START, TOTAL, Packed


class Affine(NamedTuple):
    """x -> x W' + b, prepared."""

    high: Tensor  # (N, K) fp16, with `low` the weights over a power of two
    low: Tensor
    bias: Tensor  # (N,)
    up: float  # inputs are multiplied by it before they are split
    down: float  # and sums by this one
    bound: float  # no output is larger

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, largest: float, longest: float) -> "Affine":
        """weight (N, K); largest, longest: of a number, and of a vector, that will come in."""
        high, low, unit = split(weight)
        up = raise_by(largest)
        # |w x| <= |w| |x|
        bound = float((longest * weight.norm(dim=1) + bias.abs()).max())
        return cls(high.contiguous(), low.contiguous(), bias.contiguous(), up, unit / up, bound)


class Norm(NamedTuple):
    """Layer normalisation."""

    weight: Tensor  # (D,)
    bias: Tensor

    @property
    def largest(self) -> float:
        """No number that comes out is larger."""
        # D normalised numbers have a length of sqrt(D) at most, and at worst all of it lies in one of them
        return float((self.weight.abs() * len(self.weight) ** 0.5 + self.bias.abs()).max())

    @property
    def longest(self) -> float:
        """No vector that comes out is longer."""
        return float(self.weight.abs().max() * len(self.weight) ** 0.5 + self.bias.norm())


class Tile(NamedTuple):
    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# rows, columns and warps change no bit of an answer; depth does, so it is the same for every number of rows
LINEAR, LINEAR_FEW = Tile(128, 64, 128, 8, 2), Tile(64, 32, 128, 4, 2)
# columns 0: a program has whole rows, since a norm needs all of a row
NORMED = Tile(64, 0, 32, 4, 3)
DEEP, DEEP_FEW = Tile(128, 0, 64, 8, 3), Tile(64, 0, 64, 4, 3)
FEW = 1024  # rows below which the smaller tiles keep more of a card busy


@triton.jit
def normed(x, real, weight, bias, D: tl.constexpr):
    """Layer normalisation along axis 1; `real` (1, BN): columns below D."""
    mean = tl.sum(tl.where(real, x, 0.0), 1) / D
    centred = tl.where(real, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / D
    # 1e-5 is what torch's LayerNorm adds
    return centred * (1.0 / tl.sqrt_rn(variance + 1e-5))[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def _product(x, high, low, m, n, up, M, N: tl.constexpr, K: tl.constexpr,
             BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """(BM, BN) sums of rows m of x with columns n."""
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        at = x + m[:, None].to(tl.int64) * K + k[None, :]
        a, a_low = in_halves(tl.load(at, mask=(m < M)[:, None] & (k < K)[None, :], other=0.0), up)
        # the weights lie as torch keeps them, (N, K): read across, they are transposed
        at = n[None, :] * K + k[:, None]
        own = (n < N)[None, :] & (k < K)[:, None]
        b, b_low = tl.load(high + at, mask=own, other=0.0), tl.load(low + at, mask=own, other=0.0)
        sums = dot_halves(a, a_low, b, b_low, sums)
    return sums


@triton.jit(do_not_specialize=["M"])
def _linear(x, high, low, bias, total, out, up, down, M, SOME: tl.constexpr, GELU: tl.constexpr, N: tl.constexpr,
            K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """SOME: only the first rows are in use, so many as stand at `total`."""
    if SOME:
        M = tl.load(total)
    # the grid is that of full histories: in a captured graph it cannot follow what a batch holds
    if tl.program_id(0) * BM >= M:
        return
    m, n = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    sums = _product(x, high, low, m, n, up, M, N, K, BM, BN, BK)
    y = sums * down + tl.load(bias + n, mask=n < N, other=0.0)[None, :]
    if GELU:
        # the exact GELU, torch's default; the last factor is 1 / sqrt(2)
        y = 0.5 * y * (1.0 + tl.math.erf(y * 0.7071067811865476))
    at = out + m[:, None].to(tl.int64) * N + n[None, :]
    tl.store(at, y, mask=(m < M)[:, None] & (n < N)[None, :])


def linear(
    x: Tensor, layer: Affine, packed: Packed | None = None, gelu: bool = False, tile: Tile | None = None
) -> Tensor:
    """(M, N) of x (M, K); packed: whose rows these are, of which not all are in use."""
    (N, K), M = layer.high.shape, len(x)
    tile = tile or (LINEAR if M > FEW else LINEAR_FEW)
    out = torch.empty(M, N, device=x.device)
    grid = (triton.cdiv(M, tile.rows), triton.cdiv(N, tile.columns))
    total = packed.given[0, TOTAL:] if packed else x
    _linear[grid](
        x, layer.high, layer.low, layer.bias, total, out, layer.up, layer.down, M, packed is not None, gelu, N, K,
        tile.rows, tile.columns, tile.depth, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["M"])
def _linear_norm(x, high, low, bias, before, given, weight, offset, out, up, down, M, STEP: tl.constexpr,
                 TOTAL_AT: tl.constexpr, LENGTH_AT: tl.constexpr, START_AT: tl.constexpr, SOME: tl.constexpr,
                 LAST: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BM: tl.constexpr,
                 BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    if SOME:
        M = tl.load(given + TOTAL_AT)
    if tl.program_id(0) * BM >= M:
        return
    m, n = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BN)
    sums = _product(x, high, low, m, n, up, M, N, K, BM, BN, BK)
    y = sums * down + tl.load(bias + n, mask=n < N, other=0.0)[None, :]
    row = m.to(tl.int64)
    if LAST:
        # the row of a history's last item: START has the first row, so the item stands `length` rows behind it
        own = given + row * STEP
        row = (tl.load(own + START_AT, mask=m < M, other=0) + tl.load(own + LENGTH_AT, mask=m < M, other=0)).to(
            tl.int64
        )
    real = (m < M)[:, None] & (n < N)[None, :]
    y += tl.load(before + row[:, None] * N + n[None, :], mask=real, other=0.0)
    w = tl.load(weight + n, mask=n < N, other=0.0)
    b = tl.load(offset + n, mask=n < N, other=0.0)
    y = normed(y, (n < N)[None, :], w, b, N)
    tl.store(out + m[:, None].to(tl.int64) * N + n[None, :], y, mask=real)


def linear_norm(
    x: Tensor,
    layer: Affine,
    before: Tensor,
    norm: Norm,
    packed: Packed | None = None,
    last: bool = False,
    tile: Tile | None = None,
) -> Tensor:
    """(M, N) norm(before + layer(x)) of x (M, K).

    packed: whose rows these are; last: x is of users, and `before` holds all their tokens: the last one of each counts.
    """
    (N, K), M = layer.high.shape, len(x)
    # depth changes bits: which pair it is depends on the layer alone, and both of a pair are equally deep
    few, many = (DEEP_FEW, DEEP) if K > N else (NORMED, NORMED)
    tile = tile or (many if M > FEW else few)
    out = torch.empty(M, N, device=x.device)
    given, step = (packed.given, packed.step) if packed else (x, 0)
    _linear_norm[(triton.cdiv(M, tile.rows),)](
        x, layer.high, layer.low, layer.bias, before, given, norm.weight, norm.bias, out, layer.up, layer.down, M,
        step, TOTAL, LENGTH, START, packed is not None and not last, last, N, K, tile.rows,
        max(triton.next_power_of_2(N), 16), tile.depth, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def feed_forward(x: Tensor, first: Affine, second: Affine, norm: Norm, packed: Packed | None = None) -> Tensor:
    """(M, D) norm(x + second(gelu(first(x))))."""
    return linear_norm(linear(x, first, packed, gelu=True), second, x, norm, packed)
