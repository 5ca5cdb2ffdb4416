"""Matrix products whose bits do not depend on the number of rows: what a pass of any size computes in.

On a card that takes a kernel of our own (model/kernels/invariant.py). On the CPU torch does so from `LEAST` rows on;
fewer are multiplied as a matrix with a vector, whose sums are added in another order. So they are filled up.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from model.kernels import available

LEAST = 4  # MKL and oneDNN, measured; `UserEncoder` proves it of each network before it relies on it
PRODUCTS = frozenset({F.linear, torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__})


def products(device: torch.device, size: int) -> AbstractContextManager[object]:
    """The products of a pass of `size` sequences, for whatever this thread runs inside."""
    if device.type == "cuda" and available("cuda"):
        from model.kernels.invariant import invariant  # noqa: PLC0415  (needs Triton)

        return invariant()
    # a larger pass has no product of so few rows, and each call would go through Python for nothing
    return nullcontext() if device.type == "cuda" or size >= LEAST else _Filled()


class _Filled(TorchFunctionMode):
    """Fills up the left side of a product with rows of zeros, and drops their results. Traces keep both."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or args[1].dim() != 2:
            return func(*args, **kwargs)
        left, *rest = args
        shape = [int(size) for size in left.shape[:-1]]
        num_rows = prod(shape)
        if not shape or not 0 < num_rows < LEAST:
            return func(*args, **kwargs)
        product = func(F.pad(left.reshape(num_rows, -1), (0, 0, 0, LEAST - num_rows)), *rest, **kwargs)
        return product[:num_rows].reshape(*shape, -1)
