"""Caser: the newest items as an image, read by horizontal and vertical filters, joined by the user's vector.

Source: "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding", WSDM 2018. A horizontal
filter spans h items and the whole width (max over time), a vertical one weighs the items of the window. The paper's
own output table of width 2 D is here the item embedding behind one linear map (docs/decisions/0003-one-item-table.md);
the target is the next item only (its T = 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.generation.tokens import Tokens
from model.networks.layers import init_weights
from model.networks.one_pass import PrefixConfig, PrefixTrained
from model.networks.sampling import hide_users


@dataclass(frozen=True, slots=True, kw_only=True)
class CaserConfig(PrefixConfig):
    window: int = 5  # newest tokens that are read, the paper's L
    num_horizontal: int = 16  # filters of each height 1 .. window
    num_vertical: int = 4
    user_dropout: float = 0.5  # share of training prefixes whose user id is hidden: trains the unknown user


class Caser(PrefixTrained):
    kind: ClassVar[str] = "caser"
    config: CaserConfig

    def __init__(self, config: CaserConfig) -> None:
        super().__init__()
        self.config = config
        width, num_filters = config.dim, config.num_horizontal * config.window + config.num_vertical * config.dim
        self.items = nn.Embedding(config.num_items + 2, width, padding_idx=0)
        self.users = nn.Embedding(config.num_users + 1, width)
        self.horizontal = nn.ModuleList(
            nn.Conv1d(width, config.num_horizontal, height) for height in range(1, config.window + 1)
        )
        self.vertical = nn.Linear(config.window, config.num_vertical)
        self.join = nn.Linear(num_filters, width)
        self.out = nn.Linear(2 * width, width)
        self.drop = nn.Dropout(config.dropout)
        self.apply(init_weights)
        nn.init.zeros_(self.users.weight)  # a user unseen in training is the unknown user, not noise

    def image(self, batch: Batch) -> Tensor:
        """(B, D, W) the newest `window` of START, v_1 .. v_L, newest first; zero where a history is shorter."""
        tokens = Tokens.plain(batch.rows, self.start_row)
        # START stands at 0, so the newest token stands at the length
        places = batch.lengths[:, None] - torch.arange(self.config.window, device=batch.rows.device)
        rows = tokens.rows.gather(1, places.clamp(min=0))
        return (self.items(rows) * (places >= 0)[..., None]).transpose(1, 2)  # type: ignore[no-any-return]

    def vectors(self, batch: Batch) -> Tensor:
        image = self.image(batch)
        # (B, num_horizontal) of each height: the maximum over time
        across = [torch.relu(filters(image)).amax(2) for filters in self.horizontal]
        features = torch.cat([*across, self.vertical(image).flatten(1)], 1)
        users = hide_users(batch.users, self.config.user_dropout, self.training)
        z = torch.relu(self.join(self.drop(features)))
        query: Tensor = self.out(torch.cat([z, self.users(users)], 1))
        return query[:, None]
