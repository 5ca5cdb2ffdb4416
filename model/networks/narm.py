"""NARM: a recurrent encoder whose last state is joined by an attention over all its states.

Source: "Neural Attentive Session-based Recommendation", CIKM 2017. The last state is the global encoder, the weighted
sum of states the local one; weights are v^T sigmoid(A1 h_last + A2 h_j), not normalised, as in the paper; the bilinear
map B turns both into a query.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.generation.tokens import Tokens
from model.networks.layers import init_weights
from model.networks.one_pass import PrefixConfig, SharedPrefixes, states_at


@dataclass(frozen=True, slots=True, kw_only=True)
class NARMConfig(PrefixConfig):
    hidden_dim: int = 128  # of the recurrent state


class NARM(SharedPrefixes):
    kind: ClassVar[str] = "narm"

    def __init__(self, config: NARMConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)
        self.drop = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.dim, config.hidden_dim, batch_first=True)
        self.a1, self.a2 = (nn.Linear(config.hidden_dim, config.hidden_dim, bias=False) for _ in range(2))
        self.v = nn.Linear(config.hidden_dim, 1, bias=False)
        self.b = nn.Linear(2 * config.hidden_dim, config.dim, bias=False)
        self.apply(init_weights)

    def states(self, tokens: Tokens) -> Tensor:
        states, _ = self.gru(self.drop(self.items(tokens.rows)))
        return states  # type: ignore[no-any-return]

    def attend(self, states: Tensor, ends: Tensor, real: Tensor) -> Tensor:
        last = states_at(states, ends)
        # (B, P, T)
        weights = self.v(torch.sigmoid(self.a1(last)[:, :, None] + self.a2(states)[:, None]))[..., 0] * real
        query: Tensor = self.b(self.drop(torch.cat([last, weights @ states], 2)))
        return query
