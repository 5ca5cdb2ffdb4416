"""The result of a stage of training, and a folder of such results.

Sections of a recipe often begin alike: RecGPT's four rows share their pre-training, a blend's item-item part is a row
of its own. With a folder each of these stages is trained once, and what the next run finds there is what it would have
trained: a stage starts from weights and seed alone (tests/model/training/test_stages.py).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
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


@dataclass(frozen=True)
class StageFolder:
    """Finished stages on disk, by what decides their weights."""

    path: Path

    def load(self, key: str) -> StageResult | None:
        """None where the stage has not been trained."""
        file = self._file(key)
        if not file.exists():
            return None
        with safe_open(file, "pt") as tensors:
            weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  (no mapping)
            facts = json.loads(tensors.metadata()["facts"])
        return StageResult(weights, [EpochReport(**report) for report in facts["reports"]], facts["seconds"])

    def save(self, key: str, result: StageResult) -> None:
        facts = {"reports": [asdict(report) for report in result.reports], "seconds": result.seconds}
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in result.weights.items()}
        write_file(self._file(key), lambda path: save_file(weights, path, {"facts": json.dumps(facts)}))

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.safetensors"


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
