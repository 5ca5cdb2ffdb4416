"""The result of a stage of training, a stage under way, and a folder of both.

Sections of a recipe often begin alike: RecGPT's four rows share their pre-training, a blend's item-item part is a row
of its own. With a folder each of these stages is trained once, and what the next run finds there is what it would have
trained: a stage starts from weights and seed alone (tests/model/training/test_stages.py).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.folders.files import write_file
from model.recipes.digest import recipe_settings
from model.recipes.schema import PlanSearch, Recipe

CODE = [Path(__file__).parents[1] / room for room in ("training", "networks", "generation", "recipes")]


@dataclass(frozen=True)
class EpochReport:
    """The figures that a progress display shows after each epoch."""

    stage: int
    epoch: int
    num_epochs: int
    loss: float
    seconds: float
    metric: float | None  # on validation, where it was measured


@dataclass(frozen=True)
class StageResult:
    """The weights that a stage ends with, and how it went; `seconds` with its measuring."""

    weights: dict[str, Tensor]
    reports: Sequence[EpochReport]
    seconds: float

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights these are: the first of the best, or the last where none was measured."""
        measured = [report for report in self.reports if report.metric is not None]
        if not measured:
            return len(self.reports)
        return max(measured, key=lambda report: report.metric or 0.0).epoch


@dataclass(frozen=True)
class EpochState:
    """A stage between two epochs: tensors, and plain values that JSON keeps to the last digit."""

    tensors: Mapping[str, Tensor]
    facts: dict[str, Any]

    @property
    def num_epochs(self) -> int:
        return len(self.facts["reports"])


@dataclass(frozen=True)
class StageFolder:
    """Stages on disk, by what decides their weights: finished ones, and where it is wanted the one under way."""

    path: Path
    every_epoch: bool = False  # keeps the stage under way too, after each of its epochs

    def load(self, key: str) -> StageResult | None:
        """None where the stage has not been trained."""
        if (state := _load(self._file(key))) is None:
            return None
        reports = [EpochReport(**report) for report in state.facts["reports"]]
        return StageResult(dict(state.tensors), reports, state.facts["seconds"])

    def save(self, key: str, result: StageResult) -> None:
        facts = {"reports": [asdict(report) for report in result.reports], "seconds": result.seconds}
        _save(self._file(key), EpochState(result.weights, facts))
        self._epoch_file(key).unlink(missing_ok=True)

    def load_epoch(self, key: str) -> EpochState | None:
        """None where no epoch of the stage has ended."""
        return _load(self._epoch_file(key))

    def save_epoch(self, key: str, state: EpochState) -> None:
        """Keeps a stage under way, where that is wanted."""
        if self.every_epoch:
            _save(self._epoch_file(key), state)

    def num_epochs(self, key: str) -> int:
        """The epochs of a stage that have ended."""
        state = _load(self._file(key)) or self.load_epoch(key)
        return state.num_epochs if state else 0

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.safetensors"

    def _epoch_file(self, key: str) -> Path:
        return self.path / f"{key}.epoch"


def _load(file: Path) -> EpochState | None:
    """None where there is no file.

    Raises ValueError for a damaged one.
    """
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as tensors:
            weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  (no mapping)
            return EpochState(weights, json.loads(tensors.metadata()["facts"]))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); delete it, and the stage is trained again") from error


def _save(file: Path, state: EpochState) -> None:
    # on the CPU: a stage that was trained on a card can be read where there is none
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    write_file(file, lambda path: save_file(weights, path, {"facts": json.dumps(state.facts)}))


def stage_key(recipe: Recipe, number: int, data_digest: str, seed: int, device: str) -> str:
    """The same for stages that end with the same weights: stages up to `number`, data, seed, machine kind and code."""
    # plans are searched between stages and change no weights; diversity is part of what epochs are compared by
    plan = PlanSearch(diversity=recipe.plan.diversity)
    settings = recipe_settings(replace(recipe, plan=plan))
    settings["stages"] = settings["stages"][: number + 1]
    facts = [settings, data_digest, seed, device, torch.get_num_threads(), torch.__version__, _code_digest()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _code_digest() -> str:
    """The digest of the code that training runs through: a changed loss must not find its predecessor's weights."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in CODE for file in folder.glob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
