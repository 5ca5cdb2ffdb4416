"""Blocks of items, and scores as integers that sort.

A block holds the items whose scores one thread of a tensor core's result holds, so its maximum costs no exchange
between threads: in each group of 4 * BLOCK items, block c has items 8 j + 2 c and 8 j + 2 c + 1.
A key is a score in its upper half, so that a higher score is a higher integer, and below it the complement of the row:
of equal scores the first row is the highest key.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 16  # items whose highest score is kept: what is written is a sixteenth of all scores
NO_KEY = -(2**63)
LAST_ROW = 0x7FFFFFFF


def num_blocks(num_items: int, block: int = BLOCK) -> int:
    """Counts the blocks of whole groups; those behind the last item hold none."""
    return 4 * -(-num_items // (4 * block))


def rows_of(blocks: Tensor, block: int = BLOCK) -> Tensor:
    """(.., block) rows 0 .. of the items of each block; may lie behind the last item."""
    places = torch.arange(block, device=blocks.device)
    inside = 8 * (places // 2) + places % 2
    return (blocks // 4 * (4 * block) + 2 * (blocks % 4))[..., None] + inside


def decode(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Rows 1 .. N and fp32 scores of keys; row 0 and -inf where there is none."""
    # the sign of a negative float would make larger ones smaller: `ordered` turned its other bits, here they turn back
    ordered = (keys >> 32).int()
    bits = torch.where(ordered < 0, ordered ^ LAST_ROW, ordered)
    scores = bits.view(torch.float32)
    # NO_KEY reads as NaN, which is not greater than anything
    real = scores > -torch.inf
    # a key counts rows from 0, an answer from 1
    rows = torch.where(real, LAST_ROW - (keys & 0xFFFFFFFF) + 1, 0)
    return rows, torch.where(real, scores, -torch.inf)


@triton.jit
def row_of(block, place, BLOCK: tl.constexpr):
    """The row of a place in a block."""
    return (block // 4) * (4 * BLOCK) + (place // 2) * 8 + (block % 4) * 2 + place % 2


@triton.jit
def ordered(scores):
    """fp32 as int32 that sort alike; -0.0 is 0.0."""
    bits = (scores + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def unordered(bits):
    """The scores again."""
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def key_of(scores, rows):
    return (ordered(scores).to(tl.int64) << 32) | (0x7FFFFFFF - rows).to(tl.int64)
