"""Matrix products whose bits do not depend on the number of rows: what a pass of any size computes in.

On a card that takes a kernel of our own (model/kernels/invariant.py). On the CPU torch does so from `LEAST` rows on;
fewer are multiplied as a matrix with a vector, whose sums are added in another order. So they are filled up. Large
products are oneDNN's, which multiplies with the whole width of AVX-512 on every processor: MKL, which torch asks for
fp32, does so on Intel's alone (docs/decisions/0089-products-by-onednn.md).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from model.kernels import available

LEAST = 4  # MKL and oneDNN, measured; `UserEncoder` proves it of each network before it relies on it
PRODUCTS = frozenset({F.linear, torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__})


# a call of oneDNN costs 8 us more than one of MKL. Whether it pays is told by what does not depend on the batch, since
# the two may round differently
LONG = 16  # tokens of each sequence
MANY = 1024  # rows of a table


@cache
def has_onednn() -> bool:
    """True where oneDNN multiplies with AVX-512."""
    # an operation that torch's own compiler uses, so not a public one
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.cpu._is_avx512_supported()


def _by_onednn(left: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` in fp32 on the CPU, without gradient. weight: (N, D), or what `reordered` made of it."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, weight, bias, "none", [], "")
    return product


# a trace does not record an empty list of numbers, a script does
by_onednn: Callable[..., Tensor] = torch.jit.script_if_tracing(_by_onednn)  # type: ignore[no-untyped-call]


def reordered(weight: Tensor, num_rows: int) -> Tensor:
    """A copy of a weight (N, D) as oneDNN reads it fastest, for products of about so many rows."""
    copied: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)
    return copied


def products(device: torch.device, size: int) -> AbstractContextManager[object]:
    """The products of a pass of `size` sequences, for whatever this thread runs inside, which takes no gradient."""
    if device.type == "cuda" and available("cuda"):
        from model.kernels.invariant import invariant  # noqa: PLC0415  (needs Triton)

        return invariant()
    # a larger pass has no product of so few rows, and each call would go through Python for nothing
    return _Products() if device.type == "cpu" and (size < LEAST or has_onednn()) else nullcontext()


class _Products(TorchFunctionMode):
    """Fills up the left side of a product with rows of zeros, and drops their results; gives large ones to oneDNN.

    Traces keep both.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or args[1].dim() != 2:
            return func(*args, **kwargs)
        left, right, *rest = args
        *shape, _ = (int(size) for size in left.shape)
        num_rows, weight = prod(shape), right if func is F.linear else right.T
        is_large = has_onednn() and _is_large(left, weight)
        if not shape or not num_rows or not (is_large or num_rows < LEAST):
            return func(*args, **kwargs)
        multiply, second = (by_onednn, weight) if is_large else (func, right)
        if num_rows >= LEAST:
            return multiply(left, second, *rest, **kwargs)
        filled = F.pad(left.reshape(num_rows, -1), (0, 0, 0, LEAST - num_rows))
        return multiply(filled, second, *rest, **kwargs)[:num_rows].reshape(*shape, -1)


def _is_large(left: Tensor, weight: Tensor) -> bool:
    is_long = left.dim() == 3 and left.shape[1] >= LONG
    is_plain = weight.is_contiguous() and {left.dtype, weight.dtype} == {torch.float32}
    return is_plain and bool(is_long or len(weight) >= MANY)
