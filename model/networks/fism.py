"""FISM with recency: a history is the weighted sum of its items' vectors, the newest heaviest; another table ranks.

Source: "FISM: Factored Item Similarity Models for Top-N Recommender Systems", KDD 2013. Here the weights belong to the
age of an item and are learnt, the sum is normalised, the loss is the catalogue's softmax at every position, and both
tables start from the co-occurrence spectrum (networks/spectrum.py). Strong where single pairs of items matter more
than order; in a blend (networks/blend.py) it adds what a decoder of small width cannot hold.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.catalogue import Ragged
from model.generation.tokens import Tokens
from model.networks.base import NetworkConfig
from model.networks.layers import INIT_STD, init_weights
from model.networks.one_pass import CausalTrained
from model.networks.spectrum import start_pair

RECENCY = 0.7  # the weights start as this to the power of the age


@dataclass(frozen=True, slots=True, kw_only=True)
class FISMConfig(NetworkConfig):
    dim: int = 256
    dropout: float = 0.7
    spectral_start: float = INIT_STD
    backward: float = 0.5  # what a pair counts against its order, in the co-occurrence counts


class FISM(CausalTrained):
    kind: ClassVar[str] = "fism"
    config: FISMConfig

    def __init__(self, config: FISMConfig) -> None:
        super().__init__()
        self.config = config
        self.read = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)  # of what was watched
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)  # of what is ranked
        ages = torch.arange(config.max_length + 1)
        self.log_recency = nn.Parameter(torch.log(RECENCY**ages + 1e-3))  # old items keep a little weight
        self.norm = nn.LayerNorm(config.dim)
        self.drop = nn.Dropout(config.dropout)
        self.apply(init_weights)

    def start_from(self, histories: Ragged, categories: Ragged | None = None) -> None:  # noqa: ARG002
        spread = self.config.spectral_start
        if not spread:
            return
        start_pair(self.read.weight[1 : self.start_row], self.item_vectors(), histories, spread, self.config.backward)

    def states(self, tokens: Tokens) -> Tensor:
        # the same in every row: plain tokens count 0 .. L
        positions = tokens.positions[0]
        ages = positions[:, None] - positions
        weights = self.log_recency.exp()[ages.clamp(min=0)] * (ages >= 0)  # (T, T) of what stands before
        return self.norm(weights @ self.drop(self.read(tokens.rows)))  # type: ignore[no-any-return]  # (B, T, D)

    def vectors(self, batch: Batch) -> Tensor:
        tokens = Tokens.plain(batch.rows, self.start_row)
        ages = batch.lengths[:, None] - tokens.positions  # (B, T); negative in the padding
        weights = self.log_recency.exp()[ages.clamp(min=0)] * (ages >= 0)
        return self.norm(weights[:, None] @ self.drop(self.read(tokens.rows)))  # type: ignore[no-any-return]  # (B, 1, D)
