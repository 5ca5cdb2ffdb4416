"""The Triton kernel behind `kernels.block_maxima`. Run on a CPU by Triton's interpreter in the tests; see there."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.block_max import BLOCK

QUERIES, ITEMS, WIDTH = (tl.constexpr(size) for size in (64, 128, 64))  # of a tile; tl.dot wants 16 at least
KEPT = tl.constexpr(BLOCK)


@triton.jit
def _block_maxima(queries, items, out, num_queries, num_items, dim):  # type: ignore[no-untyped-def]
    q = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    n = tl.program_id(0) * ITEMS + tl.arange(0, ITEMS)
    scores = tl.zeros((QUERIES, ITEMS), dtype=tl.float32)
    for start in range(0, dim, WIDTH):
        d = start + tl.arange(0, WIDTH)
        # rows times width can pass 2^31
        own = (q[:, None] < num_queries) & (d[None, :] < dim)
        left = tl.load(queries + q[:, None].to(tl.int64) * dim + d[None, :], mask=own, other=0.0)
        own = (n[:, None] < num_items) & (d[None, :] < dim)
        right = tl.load(items + n[:, None].to(tl.int64) * dim + d[None, :], mask=own, other=0.0)
        # ieee: 32-bit vectors are not rounded to 19 bits on the way into the tensor cores
        scores += tl.dot(left, tl.trans(right), input_precision="ieee")
    scores = tl.where(n[None, :] < num_items, scores, float("-inf"))
    highest = tl.max(tl.reshape(scores, (QUERIES, ITEMS // KEPT, KEPT)), 2)
    num_blocks = tl.cdiv(num_items, KEPT)
    b = tl.program_id(0) * (ITEMS // KEPT) + tl.arange(0, ITEMS // KEPT)
    kept = (q[:, None] < num_queries) & (b[None, :] < num_blocks)
    tl.store(out + q[:, None].to(tl.int64) * num_blocks + b[None, :], highest, mask=kept)


def block_maxima(queries: Tensor, items: Tensor) -> Tensor:
    """(Q, ceil(N / BLOCK)) as in `kernels.block_maxima`; both contiguous."""
    (num_queries, dim), num_items = queries.shape, len(items)
    out = torch.empty(num_queries, triton.cdiv(num_items, BLOCK), dtype=torch.float32, device=queries.device)
    grid = (triton.cdiv(num_items, ITEMS.value), triton.cdiv(num_queries, QUERIES.value))
    _block_maxima[grid](queries.contiguous(), items.contiguous(), out, num_queries, num_items, dim)
    return out
