"""Training: stages of epochs, averaged weights, early stop on the validation split, then the choice of the served plan.

Reads nothing of the test split. Deterministic for a seed, a machine and a thread count.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from model import __version__
from model.batch import Batch
from model.checkpoint import Checkpoint, Provenance
from model.data.sequences import SequenceData
from model.evaluation.protocol import EvalSplit
from model.networks import build_network
from model.networks.base import Network
from model.recipes.schema import Recipe, Stage
from model.records import ServingPlan
from model.training.batches import TrainingWindows
from model.training.losses import SAMPLED, catalogue_cross_entropy, target_shares
from model.training.plans import choose_plan, measure_plan, plain_plan
from model.training.stage_run import StageRun
from model.training.stages import EpochReport, EpochState, StageFolder, StageResult, stage_key
from model.training.warm import WarmStart

STAGE_STRIDE = 1_000_000  # between the seeds of a run's stages


@dataclass(frozen=True)
class Candidate:
    """Weights with the plan that is best for them, and the epochs of each stage that led to them."""

    metric: float
    weights: dict[str, Tensor]
    plan: ServingPlan
    metrics: dict[str, float]
    epochs: tuple[int, ...]


class DivergedError(ValueError):
    """The loss is no longer a number; the sentence says in which epoch."""


class Trainer:
    """One run of one recipe on one data set."""

    def __init__(
        self,
        recipe: Recipe,
        data: SequenceData,
        seed: int = 0,
        device: str = "cpu",
        kept: StageFolder | None = None,
        start: WarmStart | None = None,
        measures: bool = True,
    ) -> None:
        """kept: where stages lie that other runs may have trained already; start: weights to begin with.

        measures: epochs are compared on validation; False: all are run, for `train_through`.
        """
        torch.manual_seed(seed)
        sizes = {"num_items": len(data.catalogue.items), "num_users": len(data.catalogue.users)}
        self.recipe, self.data, self.seed, self.kept = recipe, data, seed, kept
        self.device = torch.device(device)
        self.network = build_network(recipe.system, {**recipe.network, **sizes}).to(self.device)
        # a refit leaves out stages of 0 epochs: its recipe need not be a whole one
        if measures:
            check_recipe(recipe, self.network)
        self.network.start_from(data.train, data.catalogue.categories)
        if start:
            start.fill(self.network, data.catalogue, data.train)
        self.start, self.measures, self._epochs = start, measures, list[int]()  # epochs taken of each finished stage
        self.origin = origin_of(data, start, measures)
        average = partial(move_average, recipe.ema_decay, part=recipe.averaged_part)
        self.averaged = AveragedModel(self.network, multi_avg_fn=average)
        max_length = self.network.config.max_length
        if recipe.samples == "prefixes":
            windows = TrainingWindows.prefixes(data, max_length, recipe.window.length, recipe.seen_in_loss)
        else:
            windows = TrainingWindows.of(data, max_length)
        self.windows = windows.with_chances(start.chances(data)) if start else windows

    @cached_property
    def eval_split(self) -> EvalSplit:
        return EvalSplit.of(self.data, "valid", self.recipe.max_eval_users)

    @property
    def measured(self) -> Network:
        """The network that is measured and kept: the average where there is one."""
        network = cast(Network, self.averaged.module) if self.recipe.ema_decay else self.network
        return network.eval()

    def fit(self, on_epoch: Callable[[EpochReport], None] = lambda _: None) -> Checkpoint:
        """Trains all stages; returns the averaged weights and the plan that are best on the validation split together.

        A stage that does not help (prompts, on some data) is trained and then not taken.
        Raises DivergedError when the loss is no longer a number.
        """
        started, earlier = time.perf_counter(), 0.0
        # a warm start that gains nothing is not trained away
        taken = [self._candidate()] if self.start else []
        for number, stage in enumerate(self.recipe.stages):
            earlier += self._finish_stage(number, on_epoch)
            # pre-trained weights are not an answer yet
            if stage.objective == "next":
                taken.append(self._candidate())
        best = max(taken or [self._candidate()], key=lambda candidate: candidate.metric)
        # weights and plan were measured together and are kept together
        self.measured.load_state_dict(best.weights)
        seconds = time.perf_counter() - started + earlier
        provenance = replace(
            provenance_of(self.recipe, self.data, self.seed, seconds, best.metrics),
            epochs=best.epochs,
            started_from=self.start.digest if self.start else "",
        )
        return Checkpoint(self.measured, best.plan, self.data.sampled_catalogue, provenance)

    def train_through(self, on_epoch: Callable[[EpochReport], None] = lambda _: None) -> Network:
        """All epochs of all stages; nothing is measured and nothing chosen."""
        for number in range(len(self.recipe.stages)):
            self._finish_stage(number, on_epoch)
        return self.measured

    def measure(self, plan: ServingPlan) -> float:
        return measure_plan(self.measured, self.eval_split, plan, self.recipe.metric)

    def _candidate(self) -> Candidate:
        """The weights as they are now, with the plan that is best for them."""
        plan, metrics = choose_plan(self.measured, self.eval_split, self.recipe.plan, self.recipe.metric)
        epochs = (*self._epochs, *[0] * (len(self.recipe.stages) - len(self._epochs)))
        return Candidate(metrics[self.recipe.metric], self._snapshot(), plan, metrics, epochs)

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.measured.state_dict().items()}

    def _finish_stage(self, number: int, on_epoch: Callable[[EpochReport], None]) -> float:
        """Runs a stage, or takes it over from another run that has; returns the seconds that this saved."""
        key = stage_key(self.recipe, number, self.origin, self.seed, str(self.device)) if self.kept else ""
        earlier = self.kept.load(key) if self.kept else None
        for report in earlier.reports if earlier else ():
            on_epoch(report)
        saved = earlier.seconds if earlier else 0.0
        if earlier is None:
            state = self.kept.load_epoch(key) if self.kept else None
            saved = state.facts["seconds"] if state else 0.0
            earlier = self._run_stage(number, on_epoch, key, state)
            if self.kept:
                self.kept.save(key, earlier)
        self._epochs.append(earlier.best_epoch)
        # the next stage goes on from the best weights, not from the last
        self.measured.load_state_dict(earlier.weights)
        self.network.load_state_dict(earlier.weights)
        return saved

    def _run_stage(
        self, number: int, on_epoch: Callable[[EpochReport], None], key: str = "", state: EpochState | None = None
    ) -> StageResult:
        """Epochs until the end or until validation stops rising; the best weights are its result.

        A pretrain stage runs all its epochs unmeasured and leaves its last weights. state: where to go on from.
        """
        run = self._start_stage(number)
        if state:
            run.restore(state)
            for report in run.reports:
                on_epoch(report)
        plan = plain_plan(self.recipe.plan, run.stage.num_prompts, run.stage.num_steps)
        while not run.is_over:
            epoch, started = run.next_epoch, time.perf_counter()
            loss = self._run_epoch(run)
            seconds = time.perf_counter() - started
            if not math.isfinite(loss):
                where = f"stage {number + 1}, epoch {epoch}"
                raise DivergedError(f"training diverged: the loss is {loss} in {where}; a lower learning_rate may help")
            metric = self.measure(plan) if run.is_measured else None
            report = EpochReport(number, epoch, run.stage.num_epochs, loss, seconds, metric)
            run.add(report, time.perf_counter() - started, self._snapshot)
            if self.kept:
                self.kept.save_epoch(key, run.state())
            on_epoch(report)
        return run.result()

    def _start_stage(self, number: int) -> StageRun:
        """A stage depends on weights and seed alone, not on how many numbers were drawn before it."""
        torch.manual_seed(self.seed + STAGE_STRIDE * number)
        self.averaged.n_averaged.zero_()
        order = np.random.default_rng([self.seed, number])
        return StageRun(self.recipe, number, self.network, self.averaged, order, self.measures)

    def _run_epoch(self, run: StageRun) -> float:
        self.network.train()
        total, num_targets = torch.zeros((), device=self.device), 0
        mean_positions = self.windows.mean_positions(self.recipe.batch_users)
        for batch in self.windows.batches(self.recipe.batch_users, run.rng):
            # the loss is a mean over positions: weighed by their number, a position counts the same in every batch
            weight = int(batch.lengths.sum()) / mean_positions if self.recipe.equal_positions else 1.0
            loss, count = self._loss(run.stage, replace(batch.to(self.device), window=self.recipe.window.length))
            run.optimizer.zero_grad()
            (weight * loss).backward()  # type: ignore[no-untyped-call]
            run.optimizer.step()
            run.warmup.step()
            if self.recipe.ema_decay:
                self.averaged.update_parameters(self.network)
            # kept on the device: reading it each step would wait for every step
            total += loss.detach() * count
            num_targets += count
        return float(total) / max(num_targets, 1)

    def _loss(self, stage: Stage, batch: Batch) -> tuple[Tensor, int]:
        """Mean loss of a batch, and over how many it was taken (targets, or histories of a pretrain stage)."""
        if stage.objective == "pretrain":
            return self.network.pretraining_loss(batch), len(batch.users)
        if stage.num_steps > 1:
            steps, targets = self.network.step_pairs(batch, stage.num_steps, self.recipe.plan.temperature)
            # each step answers alone, and their mean: a sum would want them shorter than each alone does
            losses = [self._ranking_loss(stage, queries, targets) for queries in (*steps, torch.stack(steps).mean(0))]
            return torch.stack(losses).mean(), len(targets)
        seen = None if self.recipe.seen_in_loss else batch.before_last
        if self.recipe.samples == "prefixes":
            queries, targets = self.network.last_pairs(batch)
        else:
            queries, targets = self.network.training_pairs(batch, stage.num_prompts)
        return self._ranking_loss(stage, queries, targets, seen), len(targets)

    def _ranking_loss(self, stage: Stage, queries: Tensor, targets: Tensor, seen: Tensor | None = None) -> Tensor:
        """Mean over T; queries (T, D) or (T, Q, D), targets (T, W) and seen (T, L) rows of items, 0 = none."""
        table, loss = self.network.item_vectors(), self.recipe.loss_of(stage)
        # rows - 1: the table that ranks begins with row 1
        if loss in SAMPLED:
            return SAMPLED[loss](queries, table, targets[:, 0] - 1)
        shares = target_shares(targets, self.recipe.window.decay)
        return catalogue_cross_entropy(queries, table, (targets - 1).clamp(min=0), shares, seen)


def origin_of(data: SequenceData, start: WarmStart | None, measures: bool) -> str:
    """The same for trainings that, with one recipe and seed, end with the same weights."""
    return " ".join([data.digest, *([start.digest] if start else []), *([] if measures else ["unmeasured"])])


def check_recipe(recipe: Recipe, network: Network) -> None:
    """Raises ValueError where the recipe asks for training that the system does not have."""
    if network.trained != bool(recipe.stages):
        reason = "needs at least one stage" if network.trained else "is not trained; its recipe has stages: []"
        raise ValueError(f"{recipe.system} {reason}")
    if recipe.samples == "prefixes" and not network.has_place_pairs:
        raise ValueError(f"{recipe.system} draws its own samples; its recipe may not have samples: prefixes")
    if network.config.num_items < 2 and any(recipe.loss_of(stage) in SAMPLED for stage in recipe.stages):
        raise ValueError(f"{recipe.system} learns an item against another one, and the catalogue has a single item")
    if recipe.window.length == 1:
        return
    if not network.takes_window:
        raise ValueError(f"{recipe.system} learns the next item alone; its recipe may not have a window")
    if sampled := {recipe.loss_of(stage) for stage in recipe.stages} - {"softmax"}:
        raise ValueError(f"a window needs the softmax; the loss {', '.join(sampled)} learns the next item alone")


def move_average(
    decay: float,
    averaged: Sequence[Tensor],
    current: Sequence[Tensor],
    num_averaged: Tensor | int,
    part: int = 9,
) -> None:
    """Exponential average whose memory starts short: else the random first weights would weigh for epochs.

    part: of the steps so far, 9 a ninth: its memory, until that has the length that the decay gives it.
    """
    count = int(num_averaged)
    # one call for all tables: tensor by tensor it costs a kernel each
    # a ninth: as TensorFlow's ExponentialMovingAverage with num_updates, .1, .18, .25 .. up to the decay
    torch._foreach_lerp_(list(averaged), list(current), 1 - min(decay, (1 + count) / (part + 1 + count)))


def provenance_of(
    recipe: Recipe, data: SequenceData, seed: int, seconds: float, metrics: Mapping[str, float]
) -> Provenance:
    return Provenance(
        data.digest,
        data.name,
        recipe.name,
        seed,
        __version__,
        training_seconds=seconds,
        metrics=dict(metrics),
        positive=data.positive,
    )


def with_epochs(recipe: Recipe, num_epochs: int) -> Recipe:
    """The same recipe with at most `num_epochs` in each stage."""
    stages = tuple(replace(s, num_epochs=min(s.num_epochs, num_epochs)) for s in recipe.stages)
    return replace(recipe, stages=stages, parts=tuple(with_epochs(part, num_epochs) for part in recipe.parts))
