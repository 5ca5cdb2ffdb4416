"""STAMP: attention over the history, asked by its mean and its last item, times the last item itself.

Source: "STAMP: Short-Term Attention/Memory Priority Model for Session-based Recommendation", KDD 2018, equations 3 to
8. The paper's sigmoid around the trilinear product is left out: it does not change the ranking, and flattens the loss.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.generation.tokens import Tokens
from model.networks.layers import init_weights
from model.networks.one_pass import PrefixConfig, SharedPrefixes, states_at
from model.products import LEAST


class STAMP(SharedPrefixes):
    kind: ClassVar[str] = "stamp"

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0).apply(init_weights)
        self.drop = nn.Dropout(config.dropout)
        # the linear maps keep torch's larger start: a product of three small vectors would hardly move
        self.w1, self.w2 = (nn.Linear(config.dim, config.dim, bias=False) for _ in range(2))
        self.w3 = nn.Linear(config.dim, config.dim)
        self.w0 = nn.Linear(config.dim, 1, bias=False)
        self.memory, self.latest = nn.Linear(config.dim, config.dim), nn.Linear(config.dim, config.dim)

    def states(self, tokens: Tokens) -> Tensor:
        return self.drop(self.items(tokens.rows))  # type: ignore[no-any-return]

    def attend(self, states: Tensor, ends: Tensor, real: Tensor) -> Tensor:
        last = states_at(states, ends)
        # START counts, so an empty history has a mean too
        mean = states_at(states.cumsum(1), ends) / (ends[..., None] + 1)
        asked = self.w2(last) + self.w3(mean)
        # (B, P, T), not normalised
        # where four does not divide the number of rows, the bits of a product's last ones depend on how many there are
        missing = -states.shape[1] % LEAST
        states = F.pad(states, (0, 0, 0, missing))
        weights = self.w0(torch.sigmoid(self.w1(states)[:, None] + asked[:, :, None]))[..., 0]
        weights = weights * F.pad(real, (0, missing))
        return torch.tanh(self.memory(weights @ states)) * torch.tanh(self.latest(last))
