"""Deep Sets: the mean of a history's items behind one tanh layer, and a bias for each item; the order is not read.

Source: "Deep Sets", NIPS 2017 (a map of the mean of the members' vectors); trained as an autoencoder of sets is in
"Variational Autoencoders for Collaborative Filtering", WWW 2018: a random part of a history's items ranks the rest
under the catalogue's softmax. Here one table reads and ranks (docs/decisions/0003-one-item-table.md). An item's bias is
the last number of its vector, against a constant 1 in the query, and starts at its log popularity: the layer says by
how much a user departs from that. A mean under a tanh has a bounded length, so the departure does not grow with the
history.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.batch import Batch
from model.catalogue import Ragged
from model.generation.tokens import Tokens
from model.networks.base import NetworkConfig
from model.networks.layers import init_weights
from model.networks.one_pass import OnePass
from model.networks.popularity import log_popularity
from model.networks.sampling import one_item


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSetsConfig(NetworkConfig):
    dim: int = 256  # one of them for the bias
    dropout: float = 0.0


class DeepSets(OnePass):
    kind: ClassVar[str] = "deepsets"
    takes_window: ClassVar[bool] = False  # a set has no next item: whatever is hidden is a target
    config: DeepSetsConfig

    def __init__(self, config: DeepSetsConfig) -> None:
        super().__init__()
        if config.dim < 2:
            raise ValueError(f"dim is {config.dim}; Deep Sets needs at least 2, one of them for the bias")
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0).apply(init_weights)
        # the layer keeps torch's larger start: a mean of small vectors would hardly move it
        self.layer = nn.Linear(config.dim - 1, config.dim - 1)
        self.drop = nn.Dropout(config.dropout)
        with torch.no_grad():
            self.items.weight[:, -1] = 0

    def start_from(self, histories: Ragged, categories: Ragged | None = None) -> None:
        super().start_from(histories, categories)
        with torch.no_grad():
            self.items.weight[:, -1] = log_popularity(histories, len(self.items.weight))

    def vectors(self, batch: Batch) -> Tensor:
        return self.of_parts(batch, batch.real)[:, None]

    def of_parts(self, batch: Batch, shown: Tensor) -> Tensor:
        """(B, D) of START and the items that are shown (B, L)."""
        members = F.pad(shown, (1, 0), value=True).float()  # (B, L + 1)
        read = self.items(Tokens.plain(batch.rows, self.start_row).rows)
        # START counts, so an empty history has a mean too
        mean = (members[:, None] @ read)[:, 0] / members.sum(1, keepdim=True)  # (B, D), of which the bias is not read
        # products of D numbers: those of D - 1 add in an order that depends on how many histories there are
        weight, bias = F.pad(self.layer.weight, (0, 1, 0, 1)), F.pad(self.layer.bias, (0, 1))
        departure = F.linear(F.pad(self.drop(mean[:, :-1]), (0, 1)), weight, bias)
        return F.pad(torch.tanh(departure[:, :-1]), (0, 1), value=1.0)

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        hidden = random_parts(batch)
        # hidden items first, in no order, 0 behind them: one query a history, whose weight in the loss they share
        noise = torch.rand(hidden.shape, device=hidden.device).masked_fill(~hidden, 2)
        places = noise.argsort(1)[:, : int(hidden.sum(1).max())]
        targets = (batch.rows * hidden).gather(1, places)
        some = batch.lengths > 0
        return self.of_parts(batch, batch.real & ~hidden)[some], targets[some]


def random_parts(batch: Batch) -> Tensor:
    """(B, L) true at some real items of each history, at least one; each history has a random share of its own."""
    share = torch.rand(len(batch.rows), 1, device=batch.rows.device)
    hidden = (torch.rand(batch.rows.shape, device=batch.rows.device) < share) & batch.real
    return hidden | (one_item(batch) & ~hidden.any(1, keepdim=True))
