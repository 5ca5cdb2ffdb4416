"""torch's matrix products by a kernel that treats a row the same in any batch, for whatever runs inside `invariant()`.

cuBLAS chooses tiles and split sums by shape, so the same row differs in its last bits between batch sizes. Inside, the
products of fp32 matrices are those of one fixed tile; everything else is torch's own. Captured in a CUDA graph, the
detour through Python costs nothing afterwards. Idea: thinking machines' batch-invariant operations, 2025.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.kernels import available

# one tile for all shapes: the order in which a sum is formed may not follow the number of rows
ROWS, COLUMNS, DEPTH = 64, 64, 32
aten = torch.ops.aten


@triton.jit(do_not_specialize=["M", "N"])
def _multiply(a, b, out, M, N, am, ak, ab, bk, bn, bb, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
              BK: tl.constexpr):  # fmt: skip
    m, n = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    z = tl.program_id(2).to(tl.int64)
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        at = a + z * ab + m[:, None].to(tl.int64) * am + k[None, :] * ak
        left = tl.load(at, mask=(m < M)[:, None] & (k < K)[None, :], other=0.0)
        at = b + z * bb + n[None, :].to(tl.int64) * bn + k[:, None] * bk
        right = tl.load(at, mask=(n < N)[None, :] & (k < K)[:, None], other=0.0)
        sums = tl.dot(left, right, sums, input_precision="tf32x3")
    at = out + (z * M + m[:, None]) * N + n[None, :]
    tl.store(at, sums, mask=(m < M)[:, None] & (n < N)[None, :])


def batched(a: Tensor, b: Tensor) -> Tensor:
    """(Z, M, N) of a (Z, M, K) and b (Z, K, N), of any strides."""
    (Z, M, K), N = a.shape, b.shape[2]
    out = torch.empty(Z, M, N, device=a.device)
    grid = (triton.cdiv(M, ROWS), triton.cdiv(N, COLUMNS), Z)
    (ab, am, ak), (bb, bk, bn) = a.stride(), b.stride()
    if out.numel():
        _multiply[grid](a, b, out, M, N, am, ak, ab, bk, bn, bb, K, ROWS, COLUMNS, DEPTH, num_warps=4, num_stages=3)
    return out


def _plain(a: Tensor, b: Tensor) -> Tensor:
    return batched(a[None], b[None])[0]


def _added(start: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    scaled = product if alpha == 1 else product * alpha
    return scaled + (start if beta == 1 else start * beta)


def _addmm(start: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _added(start, _plain(a, b), beta, alpha)


def _baddbmm(start: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _added(start, batched(a, b), beta, alpha)


# linear layers, matmul and einsum come down to these four before they reach the device
PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    aten.mm.default: _plain,
    aten.bmm.default: batched,
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _baddbmm,
}


def _fits(args: Sequence[Any]) -> bool:
    tensors = [each for each in args if isinstance(each, Tensor)]
    return all(each.dtype == torch.float32 and available(each.device.type) for each in tensors)


class _Replaced(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # products of halves or on another device are left as they are: the kernel is written for fp32 of this one
        call = PRODUCTS.get(func)
        return (call if call and _fits(args) else func)(*args, **(kwargs or {}))


@contextmanager
def invariant() -> Iterator[None]:
    """Replaces the products of this thread inside; for eager calls without gradients."""
    with _Replaced():
        yield
