"""ComiRec: K interest vectors a user, by self-attention (SA) or by dynamic routing (DR). The control arm.

Source: "Controllable Multi-Interest Framework for Recommendation", KDD 2020, and its public code. Trained with a
softmax over the whole catalogue in which an item's score is that of its nearest interest, as it is when serving, on
random prefixes of each history; the embedded history is normalised. Positions are counted from the newest item, so a
history and its padded twin are the same input.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.catalogue import Ragged
from model.generation.tokens import Tokens
from model.networks.layers import init_weights
from model.networks.one_pass import PrefixConfig, PrefixTrained
from model.networks.spectrum import start_pair


@dataclass(frozen=True, slots=True, kw_only=True)
class ComiRecConfig(PrefixConfig):
    variant: Literal["sa", "dr"] = "sa"
    num_interests: int = 4
    num_iterations: int = 3  # routing rounds of DR
    separate_tables: bool = False  # one table for what was watched, one for what is ranked, as in FISM
    backward: float = 0.5  # of separate tables that start from co-occurrence: what a pair counts against its order


class SelfAttentive(nn.Module):
    """A = softmax over positions of W2 tanh(W1 (H + P)); V = A^T H (section 3.2, SA)."""

    def __init__(self, config: ComiRecConfig) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.max_length + 1, config.dim)
        self.w1 = nn.Linear(config.dim, 4 * config.dim, bias=False)
        self.w2 = nn.Linear(4 * config.dim, config.num_interests, bias=False)

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        logits = self.w2(torch.tanh(self.w1(states + self.positions.weight[: states.shape[1]])))  # (B, T, K)
        # START is real in every history, so no softmax runs over nothing
        weights = logits.masked_fill(~real[..., None], -torch.inf).softmax(1)
        interests: Tensor = weights.transpose(1, 2) @ states
        return interests  # (B, K, D)


class DynamicRouting(nn.Module):
    """Capsules: a map for each position and interest, logits from 0, softmax over interests, squash (3.2, DR)."""

    def __init__(self, config: ComiRecConfig) -> None:
        super().__init__()
        self.num_iterations, self.num_interests = config.num_iterations, config.num_interests
        scale = config.dim**-0.5
        self.maps = nn.Parameter(
            torch.randn(config.max_length + 1, config.dim, config.num_interests * config.dim) * scale
        )

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        B, T, D = states.shape
        votes = torch.einsum("btd,tde->bte", states, self.maps[:T]).view(B, T, self.num_interests, D)
        logits = votes.new_zeros(B, T, self.num_interests)
        # three rounds cost little, so no early stop
        for last in [False] * (self.num_iterations - 1) + [True]:
            source = votes if last else votes.detach()  # gradients flow through the last round only
            weights = logits.softmax(2) * real[..., None]
            interests = squash(torch.einsum("btk,btkd->bkd", weights, source))
            logits = logits + torch.einsum("btkd,bkd->btk", source, interests).detach()
        return interests


def squash(x: Tensor) -> Tensor:
    """Length into 0..1, direction kept."""
    square = (x * x).sum(-1, keepdim=True)
    return x * (square / (1 + square) / (square + 1e-9).sqrt())


VARIANTS: dict[str, type[SelfAttentive] | type[DynamicRouting]] = {"sa": SelfAttentive, "dr": DynamicRouting}


class ComiRec(PrefixTrained):
    kind: ClassVar[str] = "comirec"
    config: ComiRecConfig

    def __init__(self, config: ComiRecConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)
        self.read = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0) if config.separate_tables else None
        self.norm = nn.LayerNorm(config.dim)
        self.drop = nn.Dropout(config.dropout)
        if config.variant not in VARIANTS:
            raise ValueError(f"ComiRec has no variant {config.variant!r}; it has {', '.join(VARIANTS)}")
        self.apply(init_weights)
        self.interests = VARIANTS[config.variant](config)  # keeps its own start: alike interests would stay alike

    @property
    def reading(self) -> nn.Embedding:
        """The table of what was watched."""
        return self.items if self.read is None else self.read

    def start_from(self, histories: Ragged, categories: Ragged | None = None) -> None:
        spread = self.config.spectral_start
        if self.read is None or not spread:
            super().start_from(histories, categories)
            return
        start_pair(self.read.weight[1 : self.start_row], self.item_vectors(), histories, spread, self.config.backward)

    def vectors(self, batch: Batch) -> Tensor:
        """(B, K, D) interests of START, v_1 .. v_L, read newest first: the position of an item is its age."""
        oldest_first = Tokens.plain(batch.rows, self.start_row)
        age = batch.lengths[:, None] - oldest_first.positions  # (B, T); also where the token of age j stands
        # where age is negative there is only padding; it is masked by `age >= 0`
        rows = oldest_first.rows.gather(1, age.clamp(min=0))
        return self.interests(self.drop(self.norm(self.reading(rows))), age >= 0)  # type: ignore[no-any-return]
