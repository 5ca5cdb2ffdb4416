"""One stage under way: optimiser, random states, averaged weights, the best so far. All that its next epoch depends on.

`state` and `restore` move it to a file and back between two epochs: a training that goes on from there ends with the
same bits as one that was never interrupted (tests/model/training/test_resume.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from model.networks.base import Network
from model.recipes.schema import Recipe
from model.training.stages import EpochReport, EpochState, StageResult

Weights = dict[str, Tensor]


class StageRun:
    """Training of one stage, epoch by epoch."""

    def __init__(
        self,
        recipe: Recipe,
        number: int,
        network: Network,
        averaged: AveragedModel,
        rng: np.random.Generator,
        measures: bool = True,
    ) -> None:
        """rng: the order of batches; dropout and negatives are drawn from torch's random state.

        measures: epochs are compared on validation; False: all of them are run, and the last one's weights are taken.
        """
        self.recipe, self.stage, self.rng = recipe, recipe.stages[number], rng
        # what a pretrain stage ranks says nothing
        self._measures = measures and self.stage.objective != "pretrain"
        # fused: one kernel for all tables; docs/experiments-log.md has what that gains
        self.optimizer = torch.optim.AdamW(
            network.parameters(), self.stage.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.warmup = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / max(1, recipe.warmup_steps))
        )
        self.reports = list[EpochReport]()
        self._modules = {"network": network, "averaged": averaged}
        self._best, self._best_weights, self._waited, self._seconds = -1.0, Weights(), 0, 0.0

    @property
    def next_epoch(self) -> int:
        return len(self.reports) + 1

    @property
    def is_measured(self) -> bool:
        """Tells whether the next epoch is measured on validation."""
        is_last = self.next_epoch == self.stage.num_epochs
        return self._measures and (self.next_epoch % self.recipe.evaluate_every == 0 or is_last)

    @property
    def is_over(self) -> bool:
        return self._waited >= self.recipe.patience or len(self.reports) == self.stage.num_epochs

    def add(self, report: EpochReport, seconds: float, weights: Callable[[], Weights]) -> None:
        """Takes an epoch that has ended; seconds: with its measuring. `weights` is asked where they are the best."""
        self.reports.append(report)
        self._seconds += seconds
        if report.metric is None:
            # a stage that is not measured leaves its last weights
            if len(self.reports) == self.stage.num_epochs:
                self._best_weights = weights()
            return
        self._waited = 0 if report.metric > self._best else self._waited + 1
        if report.metric > self._best:
            self._best, self._best_weights = report.metric, weights()

    def result(self) -> StageResult:
        return StageResult(self._best_weights, self.reports, self._seconds)

    def state(self) -> EpochState:
        """All that the next epoch depends on; the tensors are those of the training, not copies."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"{name}/{key}": value for name, m in self._modules.items() for key, value in m.state_dict().items()}
        tensors |= {f"best/{key}": value for key, value in self._best_weights.items()}
        tensors |= {f"optimizer/{n}/{key}": value for n, of in optimizer["state"].items() for key, value in of.items()}
        # dropout draws from it: without it a resumed epoch would be another one
        tensors["random/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random/cuda"] = torch.cuda.get_rng_state()
        facts = {
            "best": self._best,
            "waited": self._waited,
            "seconds": self._seconds,
            "reports": [asdict(report) for report in self.reports],
            "order": self.rng.bit_generator.state,
            "warmup": self.warmup.state_dict(),
            "learning_rates": [group["lr"] for group in optimizer["param_groups"]],
        }
        return EpochState(tensors, facts)

    def restore(self, state: EpochState) -> None:
        """Makes this run, its networks and torch's random state what they were when `state` was asked for."""
        facts = state.facts
        for name, module in self._modules.items():
            module.load_state_dict(part_of(state.tensors, name))
        self._restore_optimizer(state)
        self._best, self._waited, self._seconds = facts["best"], facts["waited"], facts["seconds"]
        self._best_weights = part_of(state.tensors, "best")
        self.reports = [EpochReport(**report) for report in facts["reports"]]
        self.rng.bit_generator.state = facts["order"]
        torch.set_rng_state(state.tensors["random/cpu"])
        if "random/cuda" in state.tensors:
            torch.cuda.set_rng_state(state.tensors["random/cuda"])

    def _restore_optimizer(self, state: EpochState) -> None:
        moments: dict[int, Weights] = {}
        for name, tensor in part_of(state.tensors, "optimizer").items():
            number, key = name.split("/")
            moments.setdefault(int(number), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        rates = state.facts["learning_rates"]
        groups = [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.warmup.load_state_dict(state.facts["warmup"])


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """The tensors under a name, by what follows it."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
