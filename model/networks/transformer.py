"""RecGPT's Transformer without users and segments, for the systems that read item ids only: causal, or both ways."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.networks.base import NetworkConfig
from model.networks.layers import INIT_STD, Block, Width


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig(NetworkConfig):
    num_layers: int = 2
    num_heads: int = 2
    attention_dropout: float | None = None  # None = dropout


class MaskedBlock(Block):
    """A block that attends to what `visible` says, or to the past where it is not given."""

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        if visible is None:
            return super().forward(x)
        q, k, v = self.attention.heads(x)
        # the function, unlike nn.Dropout, does not know of eval()
        dropout = self.attention.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        return self._rest(x, self.attention.join(heads))


class Transformer(nn.Module):
    """States of embedded tokens START, v_1 .. v_L; positions count from START."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.max_length + 2, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.drop = nn.Dropout(config.dropout)
        width = Width(config.dim, config.num_heads)
        block = partial(MaskedBlock, width, config.dropout, config.attention_dropout)
        self.blocks = nn.ModuleList(block() for _ in range(config.num_layers))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, T, D); visible: (B, 1, 1, T) tokens that all may see, causal without it."""
        x = self.drop(self.norm(x + self.positions.weight[: x.shape[1]]))
        for block in self.blocks:
            x = block(x, visible)
        return x


class Cloze(Transformer):
    """Reads both ways, with some items hidden behind a learned mask."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.mask = nn.Parameter(torch.randn(config.dim) * INIT_STD)

    def around(self, x: Tensor, hidden: Tensor, lengths: Tensor) -> Tensor:
        """(B, L + 1, D); x (B, L + 1, D) with START, hidden (B, L) items, lengths (B,) without START."""
        x = torch.where(F.pad(hidden, (1, 0))[..., None], self.mask, x)
        # padding is seen by nobody: an answer does not depend on it
        visible = torch.arange(x.shape[1], device=x.device) <= lengths[:, None]
        return self(x, visible[:, None, None])  # type: ignore[no-any-return]
