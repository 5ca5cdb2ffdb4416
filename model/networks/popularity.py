"""PopRec: every user gets the items with the most training interactions. The floor that any system must beat."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from model.batch import Batch
from model.catalogue import Ragged
from model.networks.base import NetworkConfig
from model.networks.one_pass import OnePass


@dataclass(frozen=True, slots=True, kw_only=True)
class PopRecConfig(NetworkConfig):
    dim: int = 1  # nothing else fits


class PopRec(OnePass):
    """An item's vector is log(1 + count), a user's is 1; no weight is trained."""

    kind: ClassVar[str] = "popularity"
    trained: ClassVar[bool] = False

    def __init__(self, config: PopRecConfig) -> None:
        super().__init__()
        if config.dim != 1:
            raise ValueError(f"popularity is one number an item: dim is {config.dim}, it must be 1")
        if config.spectral_start:
            raise ValueError("popularity has no spectral start; its recipe may not have one")
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, 1)
        nn.init.zeros_(self.items.weight.requires_grad_(False))

    def start_from(self, histories: Ragged, categories: Ragged | None = None) -> None:  # noqa: ARG002
        self.items.weight.copy_(log_popularity(histories, len(self.items.weight))[:, None])

    def vectors(self, batch: Batch) -> Tensor:
        return self.items.weight.new_ones(batch.rows.shape[0], 1, 1)

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        raise ValueError("PopRec is counted, not trained; its recipe has stages: []")


def log_popularity(histories: Ragged, num_rows: int) -> Tensor:
    """(R,) log(1 + count) of each row of an item table; padding and START are never counted."""
    # the logarithm keeps the order and a small range
    return torch.from_numpy(np.log1p(np.bincount(histories.values, minlength=num_rows))).float()
