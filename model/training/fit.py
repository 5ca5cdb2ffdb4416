"""One recipe on one data set: a system of its own is trained as it is, a blend part by part.

The weights of a blend's parts, then its plan, are those that are best on the validation split.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import fmean

import torch

from model.checkpoint import Checkpoint
from model.data.sequences import SequenceData
from model.evaluation.protocol import EvalSplit
from model.evaluation.revealed import eval_splits
from model.networks.base import Network
from model.networks.blend import Blend, BlendConfig
from model.recipes.schema import Recipe
from model.training.outcomes import fit_outcomes
from model.training.plans import choose_plan, measure_plan, plain_plan
from model.training.stages import EpochReport, StageFolder, stage_key
from model.training.trainer import Trainer, origin_of, provenance_of
from model.training.warm import WarmStart

SEED_STRIDE = 1000  # between parts of a blend that are of one system: they must not come out the same
OnEpoch = Callable[[EpochReport], None]


def fit(
    recipe: Recipe,
    data: SequenceData,
    seed: int = 0,
    device: str = "cpu",
    on_epoch: OnEpoch = lambda _: None,
    kept: StageFolder | None = None,
    start: WarmStart | None = None,
) -> Checkpoint:
    """The checkpoint that is best on the validation split; `on_epoch` is called after each epoch.

    kept: stages that lie there are taken over, others are left there (model/training/stages.py).
    start: weights to begin with, in place of fresh ones; `warm_recipe` is the recipe that goes with it.
    Raises ValueError where the recipe does not fit the system or the data.
    """
    if not recipe.parts:
        return with_outcomes(Trainer(recipe, data, seed, device, kept, start).fit(on_epoch), recipe, data)
    parts = list(_train_parts(recipe, data, seed, on_epoch, partial(Trainer, device=device, kept=kept), start))
    started = time.perf_counter()
    blend = join_parts([part.network for part in parts], data).to(torch.device(device)).eval()
    splits = [eval_split for _, eval_split in eval_splits(data, "valid", recipe.max_eval_users)]
    _weigh_parts(blend, splits, recipe)
    plan, metrics = choose_plan(blend, splits[0], recipe.plan, recipe.metric)
    seconds = time.perf_counter() - started + sum(part.provenance.training_seconds for part in parts)
    provenance = replace(
        provenance_of(recipe, data, seed, seconds, metrics),
        epochs=sum((part.provenance.epochs for part in parts), ()),
        started_from=start.digest if start else "",
    )
    return with_outcomes(Checkpoint(blend, plan, data.sampled_catalogue, provenance), recipe, data)


def with_outcomes(checkpoint: Checkpoint, recipe: Recipe, data: SequenceData) -> Checkpoint:
    """The checkpoint with a head for each outcome that the data mark."""
    told, plan = checkpoint.provenance, checkpoint.plan.prompts
    heads = fit_outcomes(checkpoint.network, data, plan, recipe.metric, told.seed)
    return replace(checkpoint, outcomes=heads)


def _train_parts(
    recipe: Recipe,
    data: SequenceData,
    seed: int,
    on_epoch: OnEpoch,
    trainer: Callable[..., Trainer],
    start: WarmStart | None,
) -> Iterator[Checkpoint]:
    first_stage = 0
    for part, part_seed, part_start in trainings(recipe, seed, start):

        def report(epoch: EpochReport, shift: int = first_stage) -> None:
            on_epoch(replace(epoch, stage=epoch.stage + shift))

        yield trainer(part, data, part_seed, start=part_start).fit(report)
        first_stage += len(part.stages)


def trainings(recipe: Recipe, seed: int, start: WarmStart | None) -> Iterator[tuple[Recipe, int, WarmStart | None]]:
    """The recipes that are trained, in order, each with its seed and start: the recipe itself, or a blend's parts."""
    if not recipe.parts:
        yield recipe, seed, start
    for number, part in enumerate(recipe.parts):
        # a part that is a section of its own is the same training there
        twins = sum(other.system == part.system for other in recipe.parts[:number])
        yield part, seed + SEED_STRIDE * twins, start.part(number) if start else None


def epochs_done(
    recipe: Recipe,
    data: SequenceData,
    seed: int,
    device: str,
    kept: StageFolder,
    start: WarmStart | None = None,
    measures: bool = True,
) -> int:
    """The epochs that `fit` with the same arguments finds done in a folder, or without `measures` a refit."""
    keys = [
        stage_key(part, number, origin_of(data, part_start, measures), part_seed, device)
        for part, part_seed, part_start in trainings(recipe, seed, start)
        for number in range(len(part.stages))
    ]
    return sum(kept.num_epochs(key) for key in keys)


def join_parts(networks: Sequence[Network], data: SequenceData) -> Blend:
    sizes = {"num_items": len(data.catalogue.items), "num_users": len(data.catalogue.users)}
    parts = tuple({"system": network.kind, "network": asdict(network.config)} for network in networks)
    return Blend(BlendConfig(parts=parts, max_length=networks[0].config.max_length, **sizes), networks)


def _weigh_parts(blend: Blend, splits: Sequence[EvalSplit], recipe: Recipe) -> None:
    """One part after the other, each against what stands before it, by the mean over the evaluations."""
    plan = plain_plan(recipe.plan)
    for part in range(1, len(blend.parts)):
        scores = {}
        for weight in recipe.plan.part_weights:
            # the parts behind it are measured with it, by the weight 1 that all begin with
            blend.weights[part] = weight
            scores[weight] = fmean(measure_plan(blend, eval_split, plan, recipe.metric) for eval_split in splits)
        # on a tie the first weight of the recipe stands
        blend.weights[part] = max(scores, key=scores.__getitem__)
