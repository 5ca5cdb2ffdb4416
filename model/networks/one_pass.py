"""What the systems that generate nothing share: one pass over a history gives its query vectors.

Two ways to train one: on random prefixes of each history, where a system reads a history from its end; at every
position at once, where the state of a position does not see what follows it.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from model.networks.base import Network, NetworkConfig, Queries
from model.networks.layers import Batch
from model.networks.sampling import random_prefixes
from model.networks.tokens import Tokens
from model.records import PromptPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixConfig(NetworkConfig):
    prefixes_per_user: int = 8  # training samples a history and epoch


class OnePass(Network):
    """A system without prompts: what is asked of it beyond one pass is refused."""

    generates: ClassVar[bool] = False

    @abstractmethod
    def vectors(self, batch: Batch) -> Tensor:
        """(B, Q, D) query vectors of each history."""

    @abstractmethod
    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`training_pairs` without prompts."""

    def training_pairs(self, batch: Batch, num_prompts: int = 0) -> tuple[Tensor, Tensor]:
        if num_prompts:
            raise ValueError(f"{type(self).__name__} generates no prompts; its recipe may not have a prompt stage")
        return self.pairs(batch)

    def queries(self, batch: Batch, plan: PromptPlan) -> Queries:
        if plan != PromptPlan():
            name = type(self).__name__
            raise ValueError(f"{name} generates no prompts and takes one step; its plan may not ask for more")
        return Queries(self.vectors(batch), batch.rows.new_zeros(len(batch.rows), 0))


class FromPrefixes(OnePass):
    """Trained on random prefixes of each history: what a query reads is the end of a sequence."""

    config: PrefixConfig

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        prefixes, targets = random_prefixes(batch, self.config.prefixes_per_user)
        return self.vectors(prefixes), targets


class EveryPosition(OnePass):
    """Trained on the next item at each position; the state of the last token is the query."""

    @abstractmethod
    def states(self, tokens: Tokens) -> Tensor:
        """(B, T, D); a state depends on its own and earlier tokens only."""

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        # the last item is a target only
        states = self.states(Tokens.plain(batch.rows[:, :-1], self.start_row))
        return states[batch.real], batch.rows[batch.real]

    def vectors(self, batch: Batch) -> Tensor:
        states = self.states(Tokens.plain(batch.rows, self.start_row))
        return last_of(states, batch.lengths)[:, None]


def last_of(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, D) the state of each history's last token; states (B, T, D) of START, v_1 .. v_L, lengths without START."""
    return states[torch.arange(len(states), device=states.device), lengths]


def real_tokens(batch: Batch) -> Tensor:
    """(B, L + 1) true at START and at real items."""
    # <= and not <: START stands before the first item
    return torch.arange(batch.rows.shape[1] + 1, device=batch.rows.device) <= batch.lengths[:, None]
