"""The base of every system: items it ranks, states it trains on, query vectors it answers with."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.batch import Batch, Queries
from model.catalogue import Ragged
from model.generation.greedy import NextItem
from model.networks.spectrum import tied_factors
from model.records import PromptPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Sizes common to all systems; the two counts come from the data, the rest from the recipe."""

    num_items: int
    num_users: int = 0
    dim: int = 64
    max_length: int = 50
    dropout: float = 0.5
    spectral_start: float = 0.0  # spread of an item table that starts from co-occurrence counts; 0 = at random


class Network(nn.Module, ABC):
    """A system that turns histories into vectors, ranked by inner product with its item table.

    The table has N + 2 rows: 0 is padding, 1..N are items, N + 1 starts every sequence. The start token makes the empty
    history an input like any other: it is trained to predict first items. Padding and start are never ranked.
    """

    kind: ClassVar[str]
    generates: ClassVar[bool]  # it can expand a history with items of its own
    takes_next_item: ClassVar[bool] = False  # what it generates is the best item of the table that ranks
    takes_window: ClassVar[bool] = True  # it can be trained on more of the future than the next item
    has_place_pairs: ClassVar[bool] = False  # its training pairs are one for each item, history by history, in order
    trained: ClassVar[bool] = True  # by gradient; False: `start_from` computes all there is, a recipe has no stages
    # names of the embeddings that have a row for each id: a warm start moves their rows by id
    item_tables: ClassVar[tuple[str, ...]] = ("items", "read")
    user_tables: ClassVar[tuple[str, ...]] = ("users",)
    config: NetworkConfig
    items: nn.Embedding

    @property
    def start_row(self) -> int:
        return self.config.num_items + 1

    def item_vectors(self) -> Tensor:
        """(N, D) the table that ranks; row r of the catalogue stands at r - 1."""
        # a view: the optimiser's next step shows in it
        return self.items.weight[1 : self.start_row]

    @property
    def generating(self) -> "Network":
        """The part of it that generates items, with the table that they are of."""
        return self

    def start_from(self, histories: Ragged, categories: Ragged | None = None) -> None:  # noqa: ARG002
        """Takes what a system needs of the training sequences, and of the items' categories, before the first epoch."""
        if self.config.spectral_start:
            table = tied_factors(histories, self.config.num_items, self.items.embedding_dim)  # (N, D)
            with torch.no_grad():
                self.item_vectors().copy_(self.config.spectral_start * table)

    @abstractmethod
    def training_pairs(self, batch: Batch, num_prompts: int = 0) -> tuple[Tensor, Tensor]:
        """Query vectors (T, D) or (T, Q, D) and the item rows (T, W) that each should rank first, 0 = none.

        Column 0 is the next item and never 0, column w the one w places later; W is the batch's window.

        num_prompts: generated items before each real one (prompt-tuning).
        Raises ValueError where the system generates none.
        """

    def last_pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:  # noqa: ARG002  (of the systems that have them)
        """Query vectors (B, D) of all but the last item of each history, and the rows (B, W) of it and what follows.

        Of the systems with `has_place_pairs`: `training_pairs` at the last place alone, at a fraction of its cost.
        Raises ValueError where the system draws its own places.
        """
        raise ValueError(f"{type(self).__name__} draws its own samples; its recipe may not have samples: prefixes")

    @abstractmethod
    def queries(self, batch: Batch, plan: PromptPlan, next_item: NextItem | None = None) -> Queries:
        """Query vectors of each history, any padding, any neighbours: the same answer.

        next_item: names the items that are generated; systems without `takes_next_item` leave it unused.
        """

    def step_pairs(self, batch: Batch, num_steps: int, temperature: float) -> tuple[list[Tensor], Tensor]:  # noqa: ARG002
        """Query vectors (T, D) of each of S steps at every place, and targets as `training_pairs`.

        Raises ValueError where the system generates nothing.
        """
        raise ValueError(f"{type(self).__name__} takes one step; its recipe may not have a stage of {num_steps}")

    def pretraining_loss(self, batch: Batch) -> Tensor:  # noqa: ARG002  (of the systems that have one)
        """Mean loss of a stage whose objective is "pretrain".

        Raises ValueError where the system has no such objective.
        """
        raise ValueError(f"{type(self).__name__} has no pre-training of its own; its recipe may not have such a stage")
