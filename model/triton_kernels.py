"""The Triton kernel behind `kernels.block_maxima`. Run on a CPU by Triton's interpreter in the tests; see there."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels import BLOCK

QUERIES, ITEMS, WIDTH = 64, 128, 64  # of a tile; tl.dot wants 16 at least


@triton.jit  # type: ignore[untyped-decorator]
def _block_maxima(  # type: ignore[no-untyped-def]
    queries, items, out, num_queries, num_items, dim, num_blocks,
    QUERIES: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
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
    highest = tl.max(tl.reshape(scores, (QUERIES, ITEMS // BLOCK, BLOCK)), 2)
    b = tl.program_id(0) * (ITEMS // BLOCK) + tl.arange(0, ITEMS // BLOCK)
    kept = (q[:, None] < num_queries) & (b[None, :] < num_blocks)
    tl.store(out + q[:, None].to(tl.int64) * num_blocks + b[None, :], highest, mask=kept)


def block_maxima(queries: Tensor, items: Tensor) -> Tensor:
    """(Q, ceil(N / BLOCK)) as in `kernels.block_maxima`; both contiguous."""
    (num_queries, dim), num_items = queries.shape, len(items)
    num_blocks = triton.cdiv(num_items, BLOCK)
    out = torch.empty(num_queries, num_blocks, dtype=torch.float32, device=queries.device)
    grid = (triton.cdiv(num_items, ITEMS), triton.cdiv(num_queries, QUERIES))
    _block_maxima[grid](
        queries.contiguous(), items.contiguous(), out, num_queries, num_items, dim, num_blocks,
        QUERIES=QUERIES, ITEMS=ITEMS, WIDTH=WIDTH, BLOCK=BLOCK,
    )  # fmt: skip
    return out
