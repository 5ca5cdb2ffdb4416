"""Parts shared by the networks: causal self-attention with a key/value cache, the feed-forward block.

Source: scaled dot product attention, Vaswani 2017.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.generation.kv_cache import KeyValueCache

INIT_STD = 0.02


class SideBySide(nn.Module):
    """M linear maps, each from its own slice of the width to its own slice: a block-diagonal matrix."""

    def __init__(self, dim_in: int, dim_out: int, num_members: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_members, dim_in, dim_out) * INIT_STD)
        self.bias = nn.Parameter(torch.zeros(num_members, 1, dim_out))

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        # one batched product for all members: their weights never meet
        members = x.reshape(B * T, len(self.weight), -1).transpose(0, 1)  # (M, B T, D)
        return torch.baddbmm(self.bias, members, self.weight).transpose(0, 1).reshape(B, T, -1)


class NormSideBySide(nn.Module):
    """Layer normalisation of each member's slice."""

    def __init__(self, dim: int, num_members: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_members, dim))
        self.bias = nn.Parameter(torch.zeros(num_members, dim))

    def forward(self, x: Tensor) -> Tensor:
        members = x.unflatten(-1, self.weight.shape)  # type: ignore[no-untyped-call]
        return (F.layer_norm(members, self.weight.shape[1:]) * self.weight + self.bias).flatten(-2)


def linear(dim_in: int, dim_out: int, num_members: int) -> nn.Module:
    return SideBySide(dim_in, dim_out, num_members) if num_members > 1 else nn.Linear(dim_in, dim_out)


def layer_norm(dim: int, num_members: int) -> nn.Module:
    return NormSideBySide(dim, num_members) if num_members > 1 else nn.LayerNorm(dim)


@dataclass(frozen=True)
class Width:
    """Of one block: M members of `dim`, each with its own heads."""

    dim: int
    num_heads: int
    num_members: int = 1

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")

    @property
    def all_heads(self) -> int:
        return self.num_heads * self.num_members

    @property
    def head_width(self) -> int:
        return self.dim // self.num_heads


class Attention(nn.Module):
    """Multi-head causal self-attention; members do not see each other."""

    def __init__(self, width: Width, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"attention dropout is {dropout}; it is a share from 0 to below 1")
        self.width, self.dropout = width, dropout
        self.qkv = linear(width.dim, 3 * width.dim, width.num_members)
        self.out = linear(width.dim, width.dim, width.num_members)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w = self.width
        parts = self.qkv(x).view(*x.shape[:2], w.num_members, 3, w.num_heads, w.head_width)
        # (B, T, M, 3, H, W) -> three of (B, M H, T, W): members are heads that share no weights
        q, k, v = parts.permute(3, 0, 2, 4, 1, 5).flatten(2, 3)
        return q, k, v  # (B, M H, T, D / H) each

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
        if cache.is_first(x.shape[1]):
            return self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return self._look(q, keys, values, slots)

    def extend_last(self, x: Tensor, cache: KeyValueCache, layer: int, last: Tensor) -> Tensor:
        """(B, 1, D) as `extend`, but the state of one new token a sequence alone: `last` (B,), 0 .. T - 1."""
        q, k, v = self.heads(x)
        slots = cache.slots(x.shape[1])
        keys, values = cache.write(layer, slots, k, v)
        q = q.gather(2, last[:, None, None, None].expand(-1, q.shape[1], 1, q.shape[3]))
        return self._look(q, keys, values, slots.gather(1, last[:, None]))

    def _look(self, q: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> Tensor:
        # slot s may see slots 0 .. s; padding of shorter sequences lies behind their own slots
        visible = torch.arange(keys.shape[2], device=q.device) <= slots[:, :, None]  # (B, T, width)
        return self.join(F.scaled_dot_product_attention(q, keys, values, attn_mask=visible[:, None]))


class Block(nn.Module):
    """Attention and feed-forward with residuals, normalised after each sum (post-norm)."""

    def __init__(self, width: Width, dropout: float, attention_dropout: float | None = None) -> None:
        """attention_dropout: share of the attention's weights that is dropped; None = `dropout`, as everywhere else."""
        super().__init__()
        dim, members = width.dim, width.num_members
        self.attention = Attention(width, dropout if attention_dropout is None else attention_dropout)
        self.forward_net = nn.Sequential(linear(dim, 4 * dim, members), nn.GELU(), linear(4 * dim, dim, members))
        self.norm_attention, self.norm_forward = layer_norm(dim, members), layer_norm(dim, members)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self._rest(x, self.attention(x))

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        return self._rest(x, self.attention.extend(x, cache, layer))

    def extend_last(self, x: Tensor, cache: KeyValueCache, layer: int, last: Tensor) -> Tensor:
        own = x.gather(1, last[:, None, None].expand(-1, 1, x.shape[2]))  # (B, 1, D)
        return self._rest(own, self.attention.extend_last(x, cache, layer, last))

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm_attention(x + self.drop(attended))
        return self.norm_forward(x + self.drop(self.forward_net(x)))  # type: ignore[no-any-return]


def init_weights(module: nn.Module) -> None:
    """Normal(0, .02) weights, zero biases: BERT's and SASRec-family's initialisation."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
