"""A refit: the epochs and the plan that were chosen on validation, trained again on all events, for production.

Nothing is measured, because nothing is left to measure by: what is chosen stays chosen, and its figures are those of
the checkpoint it was chosen with.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch

from model.checkpoint import Checkpoint
from model.data.sequences import SequenceData
from model.networks import build_network
from model.networks.base import Network
from model.networks.blend import Blend
from model.recipes.schema import Recipe
from model.training.fit import join_parts, trainings
from model.training.outcomes import refit_outcomes
from model.training.stages import EpochReport, StageFolder
from model.training.trainer import Trainer, provenance_of
from model.training.warm import WarmStart, check_alike


def refit(
    recipe: Recipe,
    data: SequenceData,
    chosen: Checkpoint,
    device: str = "cpu",
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
    kept: StageFolder | None = None,
    start: WarmStart | None = None,
) -> Checkpoint:
    """The checkpoint of all events, with the seed, epochs and plan of `chosen`.

    Raises ValueError where `chosen` is not a training of this recipe, these data and this start.
    """
    check_chosen(recipe, data, chosen, start)
    began, seed, merged = time.perf_counter(), chosen.provenance.seed, data.all_in_train()
    shorter = with_chosen_epochs(recipe, chosen.provenance.epochs)
    networks, first_stage = list[Network](), 0
    for part, part_seed, part_start in trainings(shorter, seed, start):

        def report(epoch: EpochReport, shift: int = first_stage) -> None:
            on_epoch(replace(epoch, stage=epoch.stage + shift))

        trainer = Trainer(part, merged, part_seed, device, kept, part_start, measures=False)
        networks.append(trainer.train_through(report))
        first_stage += len(part.stages)
    network = networks[0]
    if isinstance(chosen.network, Blend):
        network = join_parts(networks, merged).to(torch.device(device)).eval()
        network.load_state_dict({"weights": chosen.network.weights}, strict=False)
    provenance = replace(
        provenance_of(recipe, merged, seed, time.perf_counter() - began, {}),
        epochs=chosen.provenance.epochs,
        started_from=chosen.provenance.started_from,
        refit=True,
    )
    heads = refit_outcomes(network, merged, chosen.plan.prompts, chosen.outcomes, seed)
    return Checkpoint(network, chosen.plan, merged.sampled_catalogue, provenance, heads)


def check_chosen(recipe: Recipe, data: SequenceData, chosen: Checkpoint, start: WarmStart | None) -> None:
    """Raises ValueError where a refit of `chosen` would not be the training that was chosen."""
    told = chosen.provenance
    if told.refit:
        raise ValueError("the checkpoint is a refit itself; give the one that it was chosen with")
    if told.data_digest != data.digest:
        raise ValueError(f"the checkpoint was chosen on other data ({told.data_name}); refit it on those")
    if told.started_from != (start.digest if start else ""):
        raise ValueError("the checkpoint was chosen with another --start-from; give the same")
    if unmarked := [name for name in chosen.outcomes.names if name not in data.outcomes] if chosen.outcomes else []:
        raise ValueError(
            f"the checkpoint knows the outcome {unmarked[0]}, which these data do not mark: prepare them so"
        )
    if not told.epochs and recipe.all_stages:
        raise ValueError("the checkpoint does not say its epochs, it is of an earlier version; train it again")
    if len(told.epochs) != len(recipe.all_stages):
        raise ValueError(f"the checkpoint has {len(told.epochs)} stages, the recipe {len(recipe.all_stages)}")
    check_networks(recipe, data, chosen.network)


def check_networks(recipe: Recipe, data: SequenceData, chosen: Network) -> None:
    """Raises ValueError where the recipe trains other networks, before hours are spent on them."""
    parts = list(chosen.parts) if isinstance(chosen, Blend) else [chosen]
    recipes = recipe.parts or (recipe,)
    if len(parts) != len(recipes):
        raise ValueError(f"the checkpoint has {len(parts)} parts, the recipe {len(recipes)}")
    sizes = {"num_items": len(data.catalogue.items), "num_users": len(data.catalogue.users)}
    for part, wanted in zip(parts, recipes, strict=True):
        check_alike(cast(Network, part), build_network(wanted.system, {**wanted.network, **sizes}))


def with_chosen_epochs(recipe: Recipe, epochs: tuple[int, ...]) -> Recipe:
    """The recipe with the epochs of each stage in order; stages of 0 epochs are left out."""
    own = len(recipe.stages)
    stages = tuple(
        replace(stage, num_epochs=num) for stage, num in zip(recipe.stages, epochs[:own], strict=True) if num
    )
    parts, first = list[Recipe](), own
    for part in recipe.parts:
        behind = first + len(part.all_stages)
        parts.append(with_chosen_epochs(part, epochs[first:behind]))
        first = behind
    return replace(recipe, stages=stages, parts=tuple(parts))
