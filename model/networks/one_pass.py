"""The base of systems that generate nothing: one pass over a history gives its query vectors.

Three ways to train one: on random prefixes of each history, where a system reads a history from its end; on random
prefixes that share one pass, and at every position at once, where the state of a position does not see what follows it.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from model.batch import Batch, Queries
from model.generation.greedy import NextItem
from model.generation.tokens import Tokens
from model.networks.base import Network, NetworkConfig
from model.networks.sampling import random_cuts, random_prefixes
from model.records import PromptPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixConfig(NetworkConfig):
    prefixes_per_user: int = 8  # training samples a history and epoch


class OnePass(Network):
    """A system without prompts: a plan that asks for more than one pass is refused."""

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

    def queries(self, batch: Batch, plan: PromptPlan, next_item: NextItem | None = None) -> Queries:  # noqa: ARG002
        if plan != PromptPlan():
            name = type(self).__name__
            raise ValueError(f"{name} generates no prompts and takes one step; its plan may not ask for more")
        return Queries(self.vectors(batch), batch.rows.new_zeros(batch.rows.shape[0], 0))


class PrefixTrained(OnePass):
    """Trained on random prefixes of each history: what a query reads is the end of a sequence."""

    config: PrefixConfig

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        prefixes, targets = random_prefixes(batch, self.config.prefixes_per_user)
        return self.vectors(prefixes), targets


class SharedPrefixes(OnePass):
    """Trained on random prefixes of each history as well, where one pass over the history serves all of them."""

    config: PrefixConfig

    @abstractmethod
    def states(self, tokens: Tokens) -> Tensor:
        """(B, T, H); a state depends on its own and earlier tokens only."""

    @abstractmethod
    def attend(self, states: Tensor, ends: Tensor, real: Tensor) -> Tensor:
        """(B, P, D) queries of prefixes that end with token `ends` (B, P); `real` (B, P, T): their tokens."""

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        cuts, real = random_cuts(batch, self.config.prefixes_per_user)
        # token i of START, v_1 .. v_L is the last one before item i; places that are not real are dropped below
        ends = cuts.minimum(batch.lengths[:, None] - 1).clamp(min=0)
        owners = torch.arange(len(cuts), device=cuts.device)[:, None].expand_as(cuts)
        return self._at(batch.rows[:, :-1], ends)[real], batch.targets[owners[real], cuts[real]]

    def vectors(self, batch: Batch) -> Tensor:
        return self._at(batch.rows, batch.lengths[:, None])

    def _at(self, rows: Tensor, ends: Tensor) -> Tensor:
        states = self.states(Tokens.plain(rows, self.start_row))
        tokens = torch.arange(states.shape[1], device=states.device)
        return self.attend(states, ends, tokens <= ends[..., None])


class CausalTrained(OnePass):
    """Trained on the next item at each position; the state of the last token is the query."""

    has_place_pairs: ClassVar[bool] = True

    @abstractmethod
    def states(self, tokens: Tokens) -> Tensor:
        """(B, T, D); a state depends on its own and earlier tokens only."""

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        # the last item is a target only
        states = self.states(Tokens.plain(batch.rows[:, :-1], self.start_row))
        return states[batch.real], batch.targets[batch.real]

    def last_pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, targets = batch.without_last()
        return self.vectors(inputs)[:, 0], targets

    def vectors(self, batch: Batch) -> Tensor:
        states = self.states(Tokens.plain(batch.rows, self.start_row))
        return last_of(states, batch.lengths)[:, None]


def states_at(states: Tensor, ends: Tensor) -> Tensor:
    """(B, P, D) the states of tokens `ends` (B, P)."""
    return states.gather(1, ends[..., None].expand(-1, -1, states.shape[2]))


def last_of(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, D) the state of each history's last token; states (B, T, D) of START, v_1 .. v_L, lengths without START."""
    return states_at(states, lengths[:, None])[:, 0]
