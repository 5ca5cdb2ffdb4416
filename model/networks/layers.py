"""Parts shared by the networks: the padded batch, causal self-attention with a key/value cache, the catalogue head.

Histories are padded on the right, so causal attention alone hides the padding and a history gives the same states
alone, in any batch and under any padding. Source: scaled dot product attention, Vaswani 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Batch:
    """Histories of B users, padded on the right with row 0."""

    rows: Tensor  # (B, L) item rows, oldest first
    lengths: Tensor  # (B,) real items in each row, 0..L
    users: Tensor  # (B,) user rows, 0 = unknown

    @classmethod
    def of(cls, histories: Sequence[Sequence[int] | NDArray[np.int32]], users: Sequence[int], max_length: int) -> Self:
        """Keeps the newest `max_length` items of each history."""
        kept = [torch.as_tensor(list(h[-max_length:]) if len(h) else [], dtype=torch.int64) for h in histories]
        lengths = torch.tensor([len(h) for h in kept])
        rows = nn.utils.rnn.pad_sequence(kept, batch_first=True) if kept else torch.zeros(0, 0, dtype=torch.int64)
        return cls(rows, lengths, torch.as_tensor(list(users), dtype=torch.int64))

    def to(self, device: torch.device) -> Self:
        return type(self)(self.rows.to(device), self.lengths.to(device), self.users.to(device))

    @property
    def real(self) -> Tensor:
        """(B, L) true where a real item stands."""
        return torch.arange(self.rows.shape[1], device=self.rows.device) < self.lengths[:, None]


class KeyValueCache:
    """Keys and values of all layers for B growing sequences, in buffers of fixed capacity."""

    def __init__(self, shape: tuple[int, int, int, int], num_layers: int, like: Tensor) -> None:
        """shape: (B, H, capacity, head width)."""
        self.keys = [like.new_zeros(shape) for _ in range(num_layers)]
        self.values = [like.new_zeros(shape) for _ in range(num_layers)]
        self.lengths = torch.zeros(shape[0], dtype=torch.int64, device=like.device)  # filled slots of each sequence
        self.width = 0  # slots in use by the longest sequence; known on the host, so no copy from the device

    def slots(self, num_new: int) -> Tensor:
        """(B, T) where the next T tokens of each sequence go."""
        return self.lengths[:, None] + torch.arange(num_new, device=self.lengths.device)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores (B, H, T, W) keys and values at `slots` (B, T); returns all that is stored up to `width`."""
        index = slots[:, None, :, None].expand_as(keys)
        self.keys[layer].scatter_(2, index, keys)
        self.values[layer].scatter_(2, index, values)
        return self.keys[layer][:, :, : self.width], self.values[layer][:, :, : self.width]


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        return q, k, v  # (B, H, T, D / H) each

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        dropout = self.dropout if self.training else 0.0
        return self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout))

    def join(self, heads: Tensor) -> Tensor:
        joined: Tensor = self.out(heads.transpose(1, 2).flatten(2))  # (B, H, T, D / H) -> (B, T, D)
        return joined

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """States of T new tokens after what the cache holds; their keys and values are added to it."""
        q, k, v = self.heads(x)
        slots = cache.slots(x.shape[1])
        keys, values = cache.write(layer, slots, k, v)
        visible = torch.arange(keys.shape[2], device=x.device) <= slots[:, :, None]  # (B, T, width)
        return self.join(F.scaled_dot_product_attention(q, keys, values, attn_mask=visible[:, None]))


class Block(nn.Module):
    """Attention and feed-forward with residuals, normalised after each sum (post-norm)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, num_heads, dropout)
        self.forward_net = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norm_attention, self.norm_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self._rest(x, self.attention(x))

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        return self._rest(x, self.attention.extend(x, cache, layer))

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm_attention(x + self.drop(attended))
        return self.norm_forward(x + self.drop(self.forward_net(x)))  # type: ignore[no-any-return]


def init_weights(module: nn.Module) -> None:
    """Normal(0, .02) weights, zero biases: BERT's and SASRec-family's initialisation."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
