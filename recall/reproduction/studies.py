"""The studies that the paper shows beside its table, as rows of their own, measured on the validation split.

prompts: RecGPT trained and asked with K = 0 .. 6 generated items a position. quotas: the share m : n of two steps, on
the lists of one checkpoint. diversity: ComiRec's lambda, on the lists of one checkpoint. The last two train nothing.
"""

import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.catalogue import Ragged
from model.checkpoint import Checkpoint
from model.data.sequences import SequenceData
from model.evaluation.protocol import EvalSplit, TopLists, top_lists
from model.recipes.digest import recipe_digest
from model.recipes.schema import Recipe
from model.records import Placement, ServingPlan
from model.training.fit import fit
from model.training.stages import StageFolder
from model.training.trainer import with_epochs
from recall.reproduction import facts
from recall.reproduction.measure import Measures, measure, measure_lists
from recall.reproduction.results import Results, Row
from recall.reproduction.runner import Run, RunCallbacks, recipe_for

SYSTEMS = {"prompts": "recgpt", "quotas": "recgpt", "diversity": "comirec"}
MAX_PROMPTS = 6
QUOTA_LENGTHS = (10, 20)  # m + n
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0)
DIVERSE_LENGTH = 50
POOL = 4  # times the list: what diversity may choose from


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study of one data set; its recipe is `best`, its seed 0."""

    name: str
    dataset: str
    data: SequenceData
    checkpoints: Path  # folder of `Run.slug`
    device: str = "cpu"
    stages: Path | None = None  # finished stages of training are kept there and taken from there
    max_epochs: int | None = None
    callbacks: RunCallbacks = field(default_factory=RunCallbacks)

    def __post_init__(self) -> None:
        if self.name not in SYSTEMS:
            raise ValueError(f"unknown study {self.name!r}; known are {', '.join(SYSTEMS)}")

    @property
    def run(self) -> Run:
        return Run(self.dataset, SYSTEMS[self.name], "best", 0)

    def recipe(self) -> Recipe:
        recipe = recipe_for(self.dataset, "best", SYSTEMS[self.name])
        return with_epochs(recipe, self.max_epochs) if self.max_epochs is not None else recipe

    def checkpoint(self) -> Checkpoint:
        """Raises ValueError, with the way out, where the run of seed 0 was not kept or was of other data."""
        folder = self.checkpoints / self.run.slug
        if not folder.is_dir():
            raise ValueError(
                f"the study {self.name} needs the checkpoint {folder}: "
                f"`recall reproduce --datasets {self.dataset} --systems {self.run.system} --seeds 1` keeps it in --work"
            )
        checkpoint = Checkpoint.load(folder)
        if checkpoint.provenance.data_digest != self.data.digest:
            raise ValueError(f"{folder} was trained on other data than {self.dataset} is now")
        checkpoint.network.to(self.device).eval()
        return checkpoint

    def row(self, point: Mapping[str, float], metrics: Mapping[str, float]) -> Row:
        return Row(
            **asdict(self.run),
            split="valid",
            metrics=metrics,
            study=self.name,
            point=point,
            data_digest=self.data.digest,
            recipe_digest=recipe_digest(self.recipe()),
            versions=facts.versions(),
            machine=facts.machine(self.device),
            threads=torch.get_num_threads(),
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            max_epochs=self.max_epochs,
        )


Point = tuple[dict[str, float], Callable[[], dict[str, float]]]  # where, and how it is measured there


def run_study(study: Study, results: Results) -> list[Row]:
    """Measures every point that is not there yet; returns the new rows."""
    known, fresh = {row.key for row in results.rows()}, []
    for point, measure_there in STUDIES[study.name](study):
        if study.row(point, {}).key in known:
            study.callbacks.skipped(study.run)
            continue
        started = time.perf_counter()
        row = study.row(point, measure_there())
        fresh.append(replace(row, seconds=round(time.perf_counter() - started, 1)))
        # point by point: an interruption costs the one under way
        results.append(fresh[-1:])
    return fresh


def study_prompts(study: Study) -> Iterator[Point]:
    """Each K is tuned anew: prompts are learnt. Pre-training, which has none, is shared where stages are kept.

    Raises ValueError where the recipe learns no prompts.
    """
    if not _generates(study.recipe()):
        raise ValueError(f"the recipe of {study.dataset} has no stage of prompts, so there is no K to learn")
    for num_prompts in range(MAX_PROMPTS + 1):
        yield {"K": num_prompts}, partial(_train_with, study, num_prompts)


def _train_with(study: Study, num_prompts: int) -> dict[str, float]:
    recipe = with_prompts(study.recipe(), num_prompts)
    study.callbacks.started(study.run, recipe)
    on_epoch = partial(study.callbacks.epoch, study.run)
    kept = StageFolder(study.stages) if study.stages else None
    checkpoint = fit(recipe, study.data, study.run.seed, study.device, on_epoch, kept)
    metrics = measure(checkpoint.network, checkpoint.plan, EvalSplit.of(study.data, "valid"))
    study.callbacks.finished(study.run, [study.row({"K": num_prompts}, metrics)])
    return metrics


def with_prompts(recipe: Recipe, num_prompts: int) -> Recipe:
    """The recipe with K generated items wherever it has any, and no other plan to fall back on."""
    stages = tuple(replace(s, num_prompts=num_prompts if s.num_prompts else 0) for s in recipe.stages)
    placement = Placement.ALL if num_prompts else Placement.NONE
    plan = replace(recipe.plan, num_prompts=(num_prompts,), placements=(placement,))
    # of a blend, the part that generates
    parts = tuple(with_prompts(part, num_prompts) if _generates(part) else part for part in recipe.parts)
    return replace(recipe, stages=stages, plan=plan, parts=parts)


def _generates(recipe: Recipe) -> bool:
    return any(stage.num_prompts for stage in recipe.all_stages)


def study_quotas(study: Study) -> Iterator[Point]:
    """m : n on the lines m + n = 10 and 20: two steps, lists of that length."""
    checkpoint, eval_split = study.checkpoint(), EvalSplit.of(study.data, "valid")
    prompts = replace(checkpoint.plan.prompts, num_steps=2)
    lists = top_lists(checkpoint.network, eval_split, prompts, max(QUOTA_LENGTHS))
    for length in QUOTA_LENGTHS:
        for m in range(1, length):
            plan = ServingPlan(prompts, (m, length - m))
            yield (
                {"m": m, "n": length - m},
                partial(measure_lists, lists, plan, eval_split, Measures(("hr", "ndcg"), (length,))),
            )


def study_diversity(study: Study) -> Iterator[Point]:
    """lambda against recall, and against the share of pairs in a list that have no category in common.

    Raises ValueError where the data have no categories.
    """
    if study.data.catalogue.categories is None:
        raise ValueError(f"{study.dataset} has no categories, so its lists have no diversity")
    checkpoint, eval_split = study.checkpoint(), EvalSplit.of(study.data, "valid")
    lists = top_lists(checkpoint.network, eval_split, checkpoint.plan.prompts, POOL * DIVERSE_LENGTH)
    for strength in LAMBDAS:
        plan = replace(checkpoint.plan, diversity=strength)
        yield {"lambda": strength}, partial(_measure_diverse, lists, plan, eval_split)


def _measure_diverse(lists: TopLists, plan: ServingPlan, eval_split: EvalSplit) -> dict[str, float]:
    ranked, categories = lists.merged(plan, DIVERSE_LENGTH), eval_split.data.catalogue.categories
    assert categories is not None  # noqa: S101  (study_diversity has looked)
    recall = eval_split.score(ranked, [DIVERSE_LENGTH])[f"recall@{DIVERSE_LENGTH}"]
    spread = diversity(ranked, categories)
    return {f"Recall@{DIVERSE_LENGTH}": round(recall, 6), f"Diversity@{DIVERSE_LENGTH}": round(spread, 6)}


def diversity(lists: NDArray[np.int64], categories: Ragged) -> float:
    """Mean over lists of the share of pairs without a common category; empty places do not count."""
    width = int(categories.values.max(initial=-1)) + 1
    # (N + 1, C) 1 where an item has a category; row 0 is an empty place
    member = np.zeros((len(categories) + 1, max(width, 1)), dtype=np.float32)
    member[np.repeat(np.arange(len(categories)), categories.lengths) + 1, categories.values] = 1
    shares = []
    for rows in lists:
        own = member[rows[rows > 0]]
        apart = (own @ own.T) == 0
        pairs = len(own) * (len(own) - 1)
        if pairs:
            # ordered pairs; the diagonal is an item with itself, apart where it has no category at all
            shares.append((apart.sum() - np.trace(apart)) / pairs)
    return float(np.mean(shares))


STUDIES = {"prompts": study_prompts, "quotas": study_quotas, "diversity": study_diversity}
