"""BPR-MF: a vector a user, a vector and a bias an item; the history is not read.

Source: "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009; its loss is `loss: bpr` of a recipe.
The bias is the last number of an item's vector, against a constant 1 in the query. Users start at zero: one without a
training sequence is answered by the biases, and so is the unknown user before hidden ids train it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.batch import Batch
from model.catalogue import Ragged
from model.networks.base import NetworkConfig
from model.networks.layers import init_weights
from model.networks.one_pass import OnePass
from model.networks.sampling import hide_users


@dataclass(frozen=True, slots=True, kw_only=True)
class BPRConfig(NetworkConfig):
    dropout: float = 0.0
    user_dropout: float = 0.05  # share of training sequences whose user id is hidden: trains the unknown user


class BPR(OnePass):
    kind: ClassVar[str] = "bpr"
    takes_window: ClassVar[bool] = False
    config: BPRConfig

    def __init__(self, config: BPRConfig) -> None:
        super().__init__()
        if config.dim < 2:
            raise ValueError(f"dim is {config.dim}; BPR needs at least 2, one of them for the bias")
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)
        self.users = nn.Embedding(config.num_users + 1, config.dim - 1)
        self.drop = nn.Dropout(config.dropout)
        self.apply(init_weights)
        with torch.no_grad():
            self.items.weight[:, -1] = 0
            self.users.weight.zero_()

    def start_from(self, histories: Ragged, categories: Ragged | None = None) -> None:
        super().start_from(histories, categories)
        with torch.no_grad():
            self.items.weight[:, -1] = 0  # the bias is no factor

    def of_users(self, users: Tensor) -> Tensor:
        """(B, D)"""
        return F.pad(self.drop(self.users(users)), (0, 1), value=1.0)

    def vectors(self, batch: Batch) -> Tensor:
        return self.of_users(batch.users)[:, None]

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        # each item of a history is a positive of its user, in no order
        owner, place = batch.real.nonzero(as_tuple=True)
        users = hide_users(batch.users, self.config.user_dropout, self.training)
        return self.of_users(users)[owner], batch.rows[owner, place][:, None]
