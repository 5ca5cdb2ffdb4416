"""S3-Rec: a Transformer pre-trained both ways on hidden items and segments, then tuned causally.

Source: "S3-Rec: Self-Supervised Learning for Sequential Recommendation with Mutual Information Maximization", CIKM
2020, without attributes: the row "S3-Rec (IPS)" of RecGPT's table. A hidden item is told from the whole catalogue
instead of from one drawn item, a segment from items of another history in the batch. The weights of the two losses are
those of the public code.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.batch import Batch
from model.generation.tokens import Tokens
from model.networks.layers import init_weights
from model.networks.one_pass import CausalTrained, last_of
from model.networks.sampling import hide_items
from model.networks.transformer import Cloze, TransformerConfig

MASKED_ITEM, SEGMENT = 1.0, 0.5  # weights of the losses


@dataclass(frozen=True, slots=True, kw_only=True)
class S3RecConfig(TransformerConfig):
    mask_share: float = 0.2  # of the items of a history, hidden in pre-training


class S3Rec(CausalTrained):
    kind: ClassVar[str] = "s3rec"
    config: S3RecConfig

    def __init__(self, config: S3RecConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)
        self.transformer = Cloze(config)
        self.to_item, self.to_segment = (nn.Linear(config.dim, config.dim, bias=False) for _ in range(2))
        self.apply(init_weights)

    def states(self, tokens: Tokens) -> Tensor:
        return self.transformer(self.items(tokens.rows))  # type: ignore[no-any-return]

    def pretraining_loss(self, batch: Batch) -> Tensor:
        hidden = hide_items(batch, self.config.mask_share)
        states = self.around(batch, hidden)[:, 1:][hidden]  # (M, D)
        rows = batch.rows[hidden]
        # rows - 1: the table that ranks begins with row 1
        loss = MASKED_ITEM * F.cross_entropy(self.to_item(states) @ self.item_vectors().T, rows - 1)
        return loss + SEGMENT * self.segment_loss(batch)

    def around(self, batch: Batch, hidden: Tensor) -> Tensor:
        """(B, L + 1, D) states both ways of START and the items, some of them hidden (B, L)."""
        return self.transformer.around(self.items(Tokens.plain(batch.rows, self.start_row).rows), hidden, batch.lengths)

    def segment_loss(self, batch: Batch) -> Tensor:
        """A history without a segment is nearer to that segment than to another history's items in its place."""
        inside = random_segments(batch)
        context = self.to_segment(last_of(self.around(batch, inside), batch.lengths))
        own, other = (
            last_of(self.around(shown, batch.real & ~inside), batch.lengths) for shown in (batch, neighbours(batch))
        )
        return F.softplus((context * (other - own)).sum(1)).mean()


def neighbours(batch: Batch) -> Batch:
    """Each history with the items of the next one, repeated to its own length."""
    places = torch.arange(batch.rows.shape[1], device=batch.rows.device)
    # the same places are shown of both, so that only the items can tell them apart
    return replace(batch, rows=batch.rows.roll(1, 0).gather(1, places % batch.lengths.roll(1)[:, None].clamp(min=1)))


def random_segments(batch: Batch) -> Tensor:
    """(B, L) true in one run of items of each history: at most half of it, at least one."""
    size = 1 + (torch.rand(len(batch.rows), device=batch.rows.device) * (batch.lengths // 2)).long()
    size = torch.minimum(size, (batch.lengths // 2).clamp(min=1))
    start = (torch.rand(len(batch.rows), device=batch.rows.device) * (batch.lengths - size + 1)).long()
    start = torch.minimum(start, batch.lengths - size)[:, None]
    places = torch.arange(batch.rows.shape[1], device=batch.rows.device)
    return (places >= start) & (places < start + size[:, None]) & batch.real
