"""Names what a network generates next by an index over its items, where the catalogue is too large for exact search.

A single item is found with a fraction of the effort that a hundred take (docs/decisions/0016-large-catalogues.md).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from index.base import ItemIndex
from index.faiss_index import FaissIndex


def next_item_from(index: ItemIndex) -> Callable[[Tensor], Tensor] | None:
    """States (B, D) to the rows (B,) of their best items, 0 where the index finds none; None for exact search.

    Exact search would score the catalogue no cheaper than the network does.
    """
    if not isinstance(index, FaissIndex):
        return None
    # made once: it shares the native index, and parameters are handed over with each call
    lighter = index.with_effort(index.effort.for_single_item())

    def next_item(states: Tensor) -> Tensor:
        rows = lighter.search(states.cpu().float().numpy(), 1).rows[:, 0]
        return torch.from_numpy(rows).to(states.device)

    return next_item
