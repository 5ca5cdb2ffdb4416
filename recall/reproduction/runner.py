"""The runs of the table, one after the other: train, measure the test split once, append the rows, go on.

Needs torch, numpy, safetensors and pyyaml alone (benchmarks/gpu_quality.py runs it on a bare machine). A run whose rows
are there already, for the same data, recipe and seed, is skipped; so the whole is started again after any interruption.
"""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from model.checkpoint import Checkpoint
from model.data.sequences import SequenceData
from model.recipes.digest import recipe_digest, recipe_settings
from model.recipes.files import RecipeName, load_recipe, read_sections
from model.recipes.schema import Recipe
from model.training.fit import fit
from model.training.stages import EpochReport, StageFolder
from model.training.trainer import with_epochs
from recall.reproduction import facts
from recall.reproduction.measure import Measured, measure_test
from recall.reproduction.results import Results, Row

RECIPES = {"kuairand-click": "kuairand"}  # data sets that share the recipe of another


@dataclass(frozen=True, slots=True)
class Run:
    """One row of the table to be, before it is run."""

    dataset: str
    system: str
    recipe: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset} {self.system} {self.recipe} seed {self.seed}"

    @property
    def slug(self) -> str:
        return f"{self.dataset}-{self.system}-{self.recipe}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The part of the table that is wanted."""

    datasets: Mapping[str, Path]  # name -> prepared folder
    systems: Sequence[str] | None = None  # None = all of the recipe
    recipes: Sequence[str] = ("best",)
    num_seeds: int = 3
    max_epochs: int | None = None
    device: str = "cpu"
    stages: Path | None = None  # finished stages of training are kept there and taken from there
    share: tuple[int, int] = (0, 1)  # this process's number, from 0, and how many share the runs

    def runs(self) -> list[Run]:
        """The runs of this process, seed by seed, so that the table fills evenly; one alone of what is not trained.

        Raises ValueError for a system that a recipe does not have.
        """
        runs = [
            Run(dataset, system, recipe, seed)
            for seed in range(self.num_seeds)
            for dataset in self.datasets
            for recipe in self.recipes
            for system in self.systems or systems_of(dataset, recipe)
        ]
        number, processes = self.share
        return [run for run in runs if run.seed == 0 or self.recipe_of(run).all_stages][number::processes]

    def recipe_of(self, run: Run) -> Recipe:
        recipe = recipe_for(run.dataset, run.recipe, run.system)
        return with_epochs(recipe, self.max_epochs) if self.max_epochs is not None else recipe


class RunCallbacks:
    """Told how the runs go; this class does nothing."""

    def skipped(self, run: Run) -> None:
        """Its rows are there already."""

    def started(self, run: Run, recipe: Recipe) -> None:
        """Training begins."""

    def epoch(self, run: Run, report: EpochReport) -> None:
        """After each epoch."""

    def trained(self, run: Run, checkpoint: Checkpoint) -> str | None:  # noqa: ARG002
        """May keep the checkpoint; returns the digest of a bundle it made of it, if it made one."""
        return None

    def finished(self, run: Run, rows: Sequence[Row]) -> None:
        """The rows are in the file."""

    def failed(self, run: Run, reason: str) -> None:
        """The run left no row; the next one goes on."""


def reproduce(plan: RunPlan, results: Results, callbacks: RunCallbacks) -> list[Row]:
    """Runs what is missing; returns the new rows."""
    fresh: list[Row] = []
    for run in plan.runs():
        recipe, (data, digest) = plan.recipe_of(run), load_data(plan.datasets[run.dataset])
        if is_finished(run, recipe, digest, results):
            callbacks.skipped(run)
            continue
        callbacks.started(run, recipe)
        try:
            rows = list(run_one(run, plan, data, callbacks))
        # one system that cannot be trained must not cost the rest of the table
        except (ValueError, RuntimeError) as error:
            callbacks.failed(run, f"{type(error).__name__}: {error}")
            continue
        # before anyone is told: a run that was called finished is in the file
        results.append(rows)
        callbacks.finished(run, rows)
        fresh += rows
    return fresh


def run_one(run: Run, plan: RunPlan, data: SequenceData, callbacks: RunCallbacks) -> Iterator[Row]:
    """Trains and measures; the rows are not written yet."""
    recipe, reports = plan.recipe_of(run), list[EpochReport]()

    def on_epoch(report: EpochReport) -> None:
        reports.append(report)
        callbacks.epoch(run, report)

    kept = StageFolder(plan.stages) if plan.stages else None
    checkpoint = fit(recipe, data, run.seed, plan.device, on_epoch, kept)
    bundle = callbacks.trained(run, checkpoint)
    for measured in measure_test(checkpoint, data):
        yield make_row(CompletedRun(run, plan, recipe, checkpoint, len(reports), bundle), measured)


@dataclass(frozen=True, slots=True)
class CompletedRun:
    """A trained run."""

    run: Run
    plan: RunPlan
    recipe: Recipe
    checkpoint: Checkpoint
    epochs: int
    bundle: str | None = None

    @property
    def was_cut(self) -> bool:
        # a limit above the recipe's own epochs cuts nothing: that is no quick try
        return self.recipe != recipe_for(self.run.dataset, self.run.recipe, self.run.system)


def make_row(done: CompletedRun, measured: Measured) -> Row:
    network, provenance = done.checkpoint.network, done.checkpoint.provenance
    settings = {
        "recipe": recipe_settings(done.recipe),
        "network": asdict(network.config),
        "plan": asdict(done.checkpoint.plan),
    }
    return Row(
        **asdict(done.run),
        split=measured.split,
        metrics=measured.metrics,
        valid={name: round(value, 6) for name, value in provenance.metrics.items()},
        settings=settings,
        num_users=measured.num_users,
        epochs=done.epochs,
        seconds=round(provenance.training_seconds, 2),
        measure_seconds=round(measured.seconds, 2),
        peak_memory_mb=facts.peak_memory_mb(),
        data_digest=provenance.data_digest,
        recipe_digest=recipe_digest(done.recipe),
        bundle=done.bundle,
        versions=facts.versions(),
        machine=facts.machine(done.plan.device),
        threads=torch.get_num_threads(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        max_epochs=done.plan.max_epochs if done.was_cut else None,
    )


def systems_of(dataset: str, recipe: str) -> list[str]:
    return list(read_sections(RecipeName(RECIPES.get(dataset, dataset), recipe)))


@cache
def recipe_for(dataset: str, recipe: str, system: str) -> Recipe:
    return load_recipe(f"{RECIPES.get(dataset, dataset)}:{recipe}", system)


@cache
def load_data(folder: Path) -> tuple[SequenceData, str]:
    """A prepared data set and its digest."""
    # runs go seed by seed over all data sets, and a digest hashes every sequence: once a folder is enough
    # the table measures plain answers: no head of an outcome is trained for it
    data = replace(SequenceData.load(folder), outcomes={})
    return data, data.digest


def is_finished(run: Run, recipe: Recipe, data_digest: str, results: Results) -> bool:
    # every run leaves a row of the split test
    made = recipe_digest(recipe)
    wanted = Row(**asdict(run), split="test", metrics={}, recipe_digest=made, data_digest=data_digest)
    return wanted.key in {row.key for row in results.rows()}
