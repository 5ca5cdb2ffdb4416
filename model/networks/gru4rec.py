"""GRU4Rec: a recurrent network over the history, its state mapped to the space of the items.

Source: "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016. Trained on every position of a whole
history instead of session-parallel mini-batches; the output table is the item embedding.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from model.generation.tokens import Tokens
from model.networks.base import NetworkConfig
from model.networks.layers import init_weights
from model.networks.one_pass import CausalTrained


@dataclass(frozen=True, slots=True, kw_only=True)
class GRU4RecConfig(NetworkConfig):
    num_layers: int = 1
    hidden_dim: int = 128  # of the recurrent state


class GRU4Rec(CausalTrained):
    kind: ClassVar[str] = "gru4rec"

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)
        self.drop = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.dim, config.hidden_dim, config.num_layers, batch_first=True)
        self.out = nn.Linear(config.hidden_dim, config.dim)
        self.apply(init_weights)

    def states(self, tokens: Tokens) -> Tensor:
        # (B, T, H); padding stands on the right, so no real state has read it
        hidden, _ = self.gru(self.drop(self.items(tokens.rows)))
        return self.out(self.drop(hidden))  # type: ignore[no-any-return]
