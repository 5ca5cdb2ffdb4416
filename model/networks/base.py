"""What every system of the table has in common: items it ranks, states it trains on, query vectors it answers with."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from model.networks.layers import Batch
from model.records import PromptPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Sizes common to all systems; the two counts come from the data, the rest from the recipe."""

    num_items: int
    num_users: int = 0
    dim: int = 64
    max_length: int = 50
    dropout: float = 0.5


class Queries(NamedTuple):
    """QueryVectors before they leave the device."""

    vectors: Tensor  # (B, Q, D)
    prompts: Tensor  # (B, P) generated item rows


class Network(nn.Module, ABC):
    """A system that turns histories into vectors, ranked by inner product with its item table.

    The table has N + 2 rows: 0 is padding, 1..N are items, N + 1 starts every sequence. The start token makes the empty
    history an input like any other: it is trained to predict first items. Padding and start are never ranked.
    """

    kind: ClassVar[str]
    generates: ClassVar[bool]  # whether it can expand a history with items of its own
    config: NetworkConfig
    items: nn.Embedding

    @property
    def num_members(self) -> int:
        """Slices of the width that are trained by a loss of their own; the ranking adds their scores."""
        return 1

    @property
    def start_row(self) -> int:
        return self.config.num_items + 1

    def item_vectors(self) -> Tensor:
        """(N, D) the table that ranks; row r of the catalogue stands at r - 1."""
        # a view: the optimiser's next step shows in it
        return self.items.weight[1 : self.start_row]

    @abstractmethod
    def training_pairs(self, batch: Batch, num_prompts: int = 0) -> tuple[Tensor, Tensor]:
        """Query vectors (T, D) or (T, Q, D) and the item row (T,) that each should have ranked first.

        num_prompts: generated items before each real one (prompt-tuning).
        Raises ValueError where the system generates none.
        """

    @abstractmethod
    def queries(self, batch: Batch, plan: PromptPlan) -> Queries:
        """Query vectors of each history, any padding, any neighbours: the same answer."""
