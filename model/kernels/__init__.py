"""Kernels: the few products, selections and merges of a recall that are worth a Triton kernel of their own.

Knows torch and Triton, and nothing of networks, indexes or requests: tensors go in and out, on one device. Each kernel
treats a row the same wherever it stands (fixed tiles, no split sums), so an answer has the same bits in any batch. All
run on a CPU in Triton's interpreter (`TRITON_INTERPRET=1`), which is how they are tested against fp64.

    blocks      how items are grouped, and scores as sortable keys
    halves      fp32 matrices as pairs of fp16, for tensor cores without loss
    packed      histories of different length behind one another
    linear      linear layers, with GELU or layer normalisation fused to them
    attention   causal attention of all tokens, and of one token against kept keys and values
    embed       item + position + user + segment, normalised
    maxima      the highest score of each block of items
    select      the best places of a row, by counting
    score       exact scores of the candidates, excluded items out
    search      the four together: queries to their best items, with a proof for each
    merge       lists of several queries to one list a user
    block_max   the same search in torch, where Triton is missing
    invariant   torch's own matrix products replaced by ones with the same bits in any batch

Imported where a card is, or the interpreter: `available()` says so without importing Triton.
"""

import importlib.util
import os
from functools import cache


@cache
def available(device_type: str) -> bool:
    """Tells if the kernels run on a device of that type: Triton is there, and a card or its interpreter."""
    if importlib.util.find_spec("triton") is None:
        return False
    import torch  # noqa: PLC0415  (records of this room are known where no torch is)

    return (device_type == "cuda" and torch.cuda.is_available()) or interpreted()


def interpreted() -> bool:
    """Tells if Triton was asked to run in its interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"
