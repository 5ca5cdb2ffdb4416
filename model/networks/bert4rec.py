"""BERT4Rec: a Transformer that reads both ways and guesses hidden items; a hidden item at the end is the query.

Source: "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer", CIKM 2019.
As in the paper some samples hide their last item alone, which is what serving asks; here they are cut to a random
prefix first, so that every length, the empty history included, is trained. The output bias is left out: the ranking
is an inner product.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.batch import Batch
from model.generation.tokens import Tokens
from model.networks.layers import init_weights
from model.networks.one_pass import OnePass, last_of
from model.networks.sampling import hide_items, one_item
from model.networks.transformer import Cloze, TransformerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BERT4RecConfig(TransformerConfig):
    mask_share: float = 0.2  # of the items of a history, hidden in training
    prefix_share: float = 0.5  # of the histories, cut to a prefix that hides its last item only


class BERT4Rec(OnePass):
    kind: ClassVar[str] = "bert4rec"
    takes_window: ClassVar[bool] = False
    config: BERT4RecConfig

    def __init__(self, config: BERT4RecConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.num_items + 2, config.dim, padding_idx=0)
        self.transformer = Cloze(config)
        self.out = nn.Sequential(nn.Linear(config.dim, config.dim), nn.GELU(), nn.LayerNorm(config.dim))
        self.apply(init_weights)

    def states(self, batch: Batch, hidden: Tensor) -> Tensor:
        """(B, L + 1, D) of START and the items, some of them hidden (B, L)."""
        x = self.items(Tokens.plain(batch.rows, self.start_row).rows)
        return self.out(self.transformer.around(x, hidden, batch.lengths))  # type: ignore[no-any-return]

    def vectors(self, batch: Batch) -> Tensor:
        # one more place behind the last item: what is hidden there is the question
        asked = Batch(F.pad(batch.rows, (0, 1)), batch.lengths + 1, batch.users)
        places = torch.arange(asked.rows.shape[1], device=batch.rows.device)
        states = self.states(asked, places == batch.lengths[:, None])
        return last_of(states, asked.lengths)[:, None]

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        batch, hidden = self.cloze(batch)
        # without the state of START: `hidden` counts items
        return self.states(batch, hidden)[:, 1:][hidden], batch.rows[hidden][:, None]

    def cloze(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The histories, some of them cut, and what is hidden of each (B, L)."""
        end = one_item(batch)
        cut = torch.rand(len(batch.rows), device=batch.rows.device) < self.config.prefix_share
        lengths = torch.where(cut, end.long().argmax(1) + 1, batch.lengths)
        return replace(batch, lengths=lengths), torch.where(
            cut[:, None], end, hide_items(batch, self.config.mask_share)
        )
