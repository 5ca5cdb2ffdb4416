"""The two arms of a replay: prepared, trained and built in its work folder, each step only where it is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from index.bundle.build import build_bundle
from model.data.prepare import PrepareOptions, prepare
from model.data.sequences import SequenceData
from model.recipes.files import load_recipe
from recall.replay.audiences.matrix import rank_table
from recall.training.train import Training, run_training

CONTROL, TREATMENT = "comirec", "recgpt"


@dataclass(frozen=True, slots=True)
class Workshop:
    """The folder in which a replay keeps what takes long to make."""

    folder: Path
    recipe: str  # kuairec or kuairand: recipe and format of the log have one name
    source: Path
    seed: int

    def data(self) -> SequenceData:
        """The log that ends before the replay, as the arms are trained on it."""
        target = self.folder / "data"
        if not (target / "dataset.json").exists():
            self._prepare().save(target)
        return SequenceData.load(target)

    def bundles(self, given: Mapping[str, Path]) -> dict[str, Path]:
        """Bundles of both arms; those that are given are taken as they are."""
        return {arm: given.get(arm) or self._bundle(arm) for arm in (CONTROL, TREATMENT)}

    def _prepare(self) -> SequenceData:
        if self.recipe == "kuairand":
            return prepare(PrepareOptions("kuairand", self.source))[0]
        # requests name the videos of the matrix by this attribute: a bundle ranks every video of the log
        self.folder.mkdir(parents=True, exist_ok=True)
        table = self.folder / "items.parquet"
        rank_table(self.source).write_parquet(table)
        return prepare(PrepareOptions("kuairec", self.source, items=table))[0]

    def _bundle(self, arm: str) -> Path:
        checkpoint, bundle = self.folder / "checkpoints" / arm, self.folder / "bundles" / arm
        if (bundle / "manifest.json").exists():
            return bundle
        if not (checkpoint / "config.json").exists():
            recipe = load_recipe(self.recipe, arm)
            run_training(Training(recipe=recipe, data=self.data(), seed=self.seed, device="cpu"), checkpoint)
        build_bundle(checkpoint, bundle)
        return bundle
