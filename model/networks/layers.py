"""Parts shared by the networks: causal self-attention with a key/value cache, the feed-forward block.

Source: scaled dot product attention, Vaswani 2017.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.generation.kv_cache import KeyValueCache

INIT_STD = 0.02


@dataclass(frozen=True)
class Width:
    """The width of a block, and the heads that share it."""

    dim: int
    num_heads: int

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")

    @property
    def head_width(self) -> int:
        return self.dim // self.num_heads


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, width: Width, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"attention dropout is {dropout}; it is a share from 0 to below 1")
        self.width, self.dropout = width, dropout
        self.qkv = nn.Linear(width.dim, 3 * width.dim)
        self.out = nn.Linear(width.dim, width.dim)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.qkv(x).unflatten(2, (3, self.width.num_heads, self.width.head_width))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        return q, k, v  # (B, H, T, D / H) each

    def forward(self, x: Tensor) -> Tensor:
        return self.remember(x)[0]

    def remember(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States (B, T, D), and the keys and values (B, H, T, W) that were looked at."""
        q, k, v = self.heads(x)
        dropout = self.dropout if self.training else 0.0
        return self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)), k, v

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """(B, 1, D) as `forward`, but the state of one token a sequence alone: places (B,), 0 .. T - 1."""
        D = self.width.dim
        # keys and values are wanted of every token, a query of one
        q = F.linear(token_at(x, places), self.qkv.weight[:D], self.qkv.bias[:D])
        parts = F.linear(x, self.qkv.weight[D:], self.qkv.bias[D:]).view(*x.shape[:2], 2, self.width.num_heads, -1)
        k, v = parts.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        visible = torch.arange(x.shape[1], device=x.device) <= places[:, None]  # (B, T)
        dropout = self.dropout if self.training else 0.0
        q = q.view(len(x), 1, self.width.num_heads, -1).transpose(1, 2)  # (B, H, 1, D / H)
        return self.join(F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None], dropout_p=dropout))

    def branch(self, x: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """States of generated tokens (B, T, D), one behind each token; they see what that token sees, and themselves.

        keys, values: (B, H, T, W) of the real tokens first, then of the earlier generated ones; those of `x` are added.
        """
        q, k, v = self.heads(x)
        keys.append(k)
        values.append(v)
        T = x.shape[1]
        whole = torch.ones(T, T, dtype=torch.bool, device=x.device)
        # real tokens up to its own place, and the generated tokens of its own branch
        visible = torch.cat([whole.tril(), *[torch.eye(T, dtype=torch.bool, device=x.device)] * (len(keys) - 1)], 1)
        dropout = self.dropout if self.training else 0.0
        return self.join(
            F.scaled_dot_product_attention(
                q, torch.cat(keys, 2), torch.cat(values, 2), attn_mask=visible, dropout_p=dropout
            )
        )

    def join(self, heads: Tensor) -> Tensor:
        joined: Tensor = self.out(heads.transpose(1, 2).flatten(2))  # (B, H, T, D / H) -> (B, T, D)
        return joined

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """States of T new tokens after what the cache holds; their keys and values are added to it."""
        q, k, v = self.heads(x)
        slots = cache.slots(x.shape[1])
        keys, values = cache.write(layer, slots, k, v)
        # nothing stands before these tokens: torch's own causal kernel needs no mask
        if cache.is_first(x.shape[1]):
            return self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return self._look(q, keys, values, slots)

    def extend_last(self, x: Tensor, cache: KeyValueCache, layer: int, last: Tensor) -> Tensor:
        """(B, 1, D) as `extend`, but the state of one new token a sequence alone: `last` (B,), 0 .. T - 1."""
        q, k, v = self.heads(x)
        slots = cache.slots(x.shape[1])
        keys, values = cache.write(layer, slots, k, v)
        # keys and values are kept of all tokens; a query is needed of one
        q = q.gather(2, last.view(-1, 1, 1, 1).expand(-1, self.width.num_heads, 1, self.width.head_width))
        return self._look(q, keys, values, slots.gather(1, last.unsqueeze(1)))

    def _look(self, q: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> Tensor:
        # slot s may see slots 0 .. s; padding of shorter sequences lies behind their own slots
        visible = torch.arange(keys.shape[2], device=q.device) <= slots.unsqueeze(2)  # (B, T, width)
        return self.join(F.scaled_dot_product_attention(q, keys, values, attn_mask=visible.unsqueeze(1)))


class Block(nn.Module):
    """Attention and feed-forward with residuals, normalised after each sum (post-norm)."""

    def __init__(self, width: Width, dropout: float, attention_dropout: float | None = None) -> None:
        """attention_dropout: share of the attention's weights that is dropped; None = `dropout`, as everywhere else."""
        super().__init__()
        dim = width.dim
        self.attention = Attention(width, dropout if attention_dropout is None else attention_dropout)
        self.forward_net = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norm_attention, self.norm_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self._rest(x, self.attention(x))

    def remember(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attended, keys, values = self.attention.remember(x)
        return self._rest(x, attended), keys, values

    def branch(self, x: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        return self._rest(x, self.attention.branch(x, keys, values))

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        return self._rest(x, self.attention.extend(x, cache, layer))

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """(B, 1, D) the state of one token a sequence: places (B,), 0 .. T - 1."""
        return self._rest(token_at(x, places), self.attention.at(x, places))

    def extend_last(self, x: Tensor, cache: KeyValueCache, layer: int, last: Tensor) -> Tensor:
        return self._rest(token_at(x, last), self.attention.extend_last(x, cache, layer, last))

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm_attention(x + self.drop(attended))
        return self.norm_forward(x + self.drop(self.forward_net(x)))  # type: ignore[no-any-return]


def token_at(x: Tensor, places: Tensor) -> Tensor:
    """(B, 1, D) one token of each sequence; x (B, T, D), places (B,)."""
    return x.gather(1, places[:, None, None].expand(-1, 1, x.shape[2]))


def init_weights(module: nn.Module) -> None:
    """Normal(0, .02) weights, zero biases: BERT's and SASRec-family's initialisation."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
