"""The records that cross the seams between service, index and model. No torch here.

The service's spine imports this file.

Rows are 1..N inside; 0 is padding or "unknown". External ids exist only at the edges (model/catalogue.py).
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class History:
    """The items known of one user at one moment."""

    items: tuple[int, ...]  # item rows, oldest to newest
    user: int = 0  # user row, 0 = unknown


class QueryVectors(NamedTuple):
    """Vectors to search the item index with; the inner product with an item vector is its score, higher is better."""

    vectors: NDArray[np.float32]  # (B, Q, D)
    prompts: NDArray[
        np.int64
    ]  # (B, P) item rows the model generated, in order; P = 0 where the system generates nothing


class SoftItems(NamedTuple):
    """The nearest items of each of P soft items, the nearest first."""

    rows: NDArray[np.int64]  # (P, K)
    weights: NDArray[np.float32]  # (P, K) of them among those of all items, whose sum is 1


class Placement(StrEnum):
    """The places where Algorithm 1 puts generated items in the history."""

    NONE = "none"
    TAIL = "tail"
    ALL = "all"


class PromptForm(StrEnum):
    """The forms of a generated item."""

    ARGMAX = "argmax"  # the item that ranks first, as in the paper
    SOFT = "soft"  # the mean of all items, weighted by the softmax of their scores


MAX_STEPS = 8


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """How a history is expanded before and during recall (RecGPT, Algorithm 1 and two-step recall)."""

    num_prompts: int = 0  # the paper's K: generated items a position
    placement: Placement = Placement.NONE
    num_steps: int = 1  # S states a user; every further one follows a generated item
    form: PromptForm = PromptForm.ARGMAX
    temperature: float = 1.0  # of the softmax of a soft item: the scores are divided by it
    step_weights: tuple[float, ...] = ()  # one query vector, the weighted sum of the steps; empty = one a step

    def __post_init__(self) -> None:
        if not 0 <= self.num_prompts <= 6:
            raise ValueError(f"num_prompts is {self.num_prompts}; it must be 0 to 6")
        if not 1 <= self.num_steps <= MAX_STEPS:
            raise ValueError(f"num_steps is {self.num_steps}; it must be 1 to {MAX_STEPS}")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if self.step_weights and len(self.step_weights) != self.num_steps:
            raise ValueError(f"step_weights {self.step_weights}: one for each of {self.num_steps} steps is needed")
        if self.form is PromptForm.SOFT and self.placement is Placement.ALL:
            raise ValueError("soft items follow the end of a history; placement all takes argmax items")

    @property
    def num_vectors(self) -> int:
        """Q query vectors a user."""
        return 1 if self.step_weights else self.num_steps

    @property
    def before_soft(self) -> "PromptPlan | None":
        """The plan whose query vectors are the states that its soft items follow, of the first MAX_STEPS of them.

        None where it generates none.
        """
        tail = self.num_prompts if self.placement is Placement.TAIL else 0
        num_items = min(tail + self.num_steps - 1, MAX_STEPS)
        if self.form is not PromptForm.SOFT or not num_items:
            return None
        # prompts behind the end and further steps are numbered alike, and stand at one position
        return PromptPlan(num_steps=num_items, form=self.form, temperature=self.temperature)


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """How an arm answers; stored with the checkpoint, carried by the bundle."""

    prompts: PromptPlan = PromptPlan()
    quotas: tuple[int, ...] = ()  # the paper's m : n, scaled to the list; empty = pool all vectors and sort by score
    diversity: float = 0.0  # ComiRec's lambda: score - lambda * (items of that category already chosen)
    outcomes: tuple[
        tuple[str, float], ...
    ] = ()  # what the list is asked for, each with its share; () = the plain answer

    def __post_init__(self) -> None:
        self._check_outcomes()
        # found out at load, not at the first request
        if self.quotas and (len(self.quotas) != self.prompts.num_vectors or min(self.quotas) < 1):
            raise ValueError(
                f"quotas {self.quotas}: one above 0 for each of {self.prompts.num_vectors} steps is needed"
            )

    def _check_outcomes(self) -> None:
        names, shares = [name for name, _ in self.outcomes], [share for _, share in self.outcomes]
        if len(set(names)) < len(names):
            raise ValueError(f"outcomes {', '.join(names)}: each may stand once")
        if shares and (not min(shares) > 0 or not math.isclose(math.fsum(shares), 1, abs_tol=1e-6)):
            raise ValueError(f"outcomes have the shares {shares}; they must be above 0 and sum to 1")
        if len(names) > 1 and (self.quotas or self.prompts.num_vectors > 1):
            raise ValueError("a plan that mixes outcomes has one query vector before: one step, or steps in one sum")

    @property
    def shares(self) -> tuple[int, ...]:
        """The parts of a list that the query vectors fill in order: quotas, or the shares of mixed outcomes."""
        if len(self.outcomes) < 2:
            return self.quotas
        return tuple(max(1, round(1e6 * share)) for _, share in self.outcomes)
