"""A trained system on disk: weights (safetensors), config, item ids and where it all came from.

Nothing in it can run code. It is replaced in one step, and its files are bound by one digest (model/folders).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.catalogue import ATTRIBUTES, Catalogue
from model.folders.files import FolderRefused
from model.folders.whole import FolderKind, read_folder, write_folder
from model.metadata import CATALOGUE, CONFIG, read_fits, read_plan
from model.networks import build_network
from model.networks.base import Network
from model.outcomes.files import load_heads, save_heads
from model.outcomes.heads import OutcomeHeads, check_outcomes
from model.positive import PositiveRule, read_rule
from model.records import ServingPlan

FORMAT = 2
UNBOUND = 1  # the format without a manifest: read, not written
# settings that earlier versions had -> the value at which they did nothing
RETIRED = {"num_members": 1, "hard_negatives": 0.0, "routing_regularisation": 0.0, "num_attributes": 0}
WEIGHTS, OUTCOMES = "weights.safetensors", "outcomes.safetensors"
CHECKPOINT = FolderKind("checkpoint", "recall train", (WEIGHTS, CONFIG, CATALOGUE, ATTRIBUTES, OUTCOMES))


class CheckpointError(ValueError):
    """The folder is not a usable checkpoint; the sentence says why."""


@dataclass(frozen=True)
class Provenance:
    """Enough to train the same checkpoint again and to compare two of them."""

    data_digest: str
    data_name: str
    recipe: str
    seed: int
    code_version: str
    torch_version: str = torch.__version__
    training_seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)  # on the validation split, of the served plan
    epochs: tuple[int, ...] = ()  # of each stage that were taken, 0 = the stage was not; earlier versions kept none
    started_from: str = ""  # the digest of the weights that a warm start began with
    positive: PositiveRule | None = None  # by which the events were chosen; None = not known
    refit: bool = False  # trained on validation and test too: no measure of quality holds for it


@dataclass(frozen=True)
class Checkpoint:
    network: Network
    plan: ServingPlan
    catalogue: Catalogue
    provenance: Provenance
    outcomes: OutcomeHeads | None = None  # None: its answer cannot be asked for any

    def __post_init__(self) -> None:
        """Raises ValueError where the plan asks for an outcome that has no head."""
        check_outcomes([name for name, _ in self.plan.outcomes], self.outcomes.names if self.outcomes else ())

    def save(self, folder: Path) -> None:
        """Puts the checkpoint in the place of `folder`; whoever reads it meanwhile gets the old one or this one.

        Raises FolderRefused where something other than a checkpoint would be lost.
        """
        write_folder(CHECKPOINT, folder, self._write)

    def _write(self, folder: Path) -> None:
        # contiguous: safetensors refuses views
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        self.catalogue.save(folder / CATALOGUE)
        if self.outcomes:
            save_heads(self.outcomes, folder / OUTCOMES)
        parts = {
            "format": FORMAT,
            "kind": self.network.kind,
            "network": asdict(self.network.config),
            "plan": asdict(self.plan),
            "provenance": asdict(self.provenance),
            "outcomes": self.outcomes.facts if self.outcomes else [],
        }
        (folder / CONFIG).write_text(json.dumps(parts, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Checkpoint":
        """Raises CheckpointError when a file is missing, damaged or of another save, does not fit, or holds NaN."""
        try:
            return read_folder(CHECKPOINT, folder, cls._read, is_bound)
        except CheckpointError:
            raise
        except FolderRefused as error:
            raise CheckpointError(str(error)) from error
        except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile, SafetensorError) as error:
            raise CheckpointError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error

    @classmethod
    def _read(cls, folder: Path) -> "Checkpoint":
        parts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        network = build_network(parts["kind"], read_settings(parts["network"]))
        _load_weights(network, folder / WEIGHTS)
        catalogue = Catalogue.load(folder / CATALOGUE)
        if len(catalogue.items) != network.config.num_items:
            raise CheckpointError(
                f"{folder}: {len(catalogue.items)} item ids for {network.config.num_items} item vectors"
            )
        if len(catalogue.users) != network.config.num_users:
            raise CheckpointError(f"{folder}: {len(catalogue.users)} users for {network.config.num_users} user vectors")
        fits = read_fits(parts)
        heads = load_heads(folder / OUTCOMES, fits) if fits else None
        if heads and heads.dim != network.item_vectors().shape[1]:
            raise CheckpointError(f"{folder}: heads of width {heads.dim} for vectors of another")
        # a checkpoint is measured and served: left as it was built, its network would answer with dropout
        return cls(network.eval(), read_plan(parts["plan"]), catalogue, read_provenance(parts["provenance"]), heads)


def check_not_refit(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a checkpoint that was trained on the events it would be measured by."""
    if checkpoint.provenance.refit:
        raise CheckpointError(
            "it is a refit: it was trained on the validation and test events too, and would be measured by what it has "
            "seen; measure the checkpoint that it was chosen with"
        )


def is_bound(folder: Path) -> bool:
    """Tells whether a checkpoint must have a manifest: those of earlier versions have none.

    Raises CheckpointError where a file is missing or the format is unknown.
    """
    if missing := [name for name in (WEIGHTS, CONFIG, CATALOGUE) if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder} is not a checkpoint: {', '.join(missing)} missing; make one with `recall train`"
        )
    number = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("format")
    if number not in (FORMAT, UNBOUND):
        raise CheckpointError(f"{folder} has checkpoint format {number}; this version reads {UNBOUND} and {FORMAT}")
    return bool(number == FORMAT)


def read_settings(network: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a network, and of a blend's parts, without those that this version no longer has.

    Raises CheckpointError where such a setting was in use.
    """
    if used := [name for name, off in RETIRED.items() if network.get(name, off) != off]:
        raise CheckpointError(
            f"it was trained with {', '.join(used)}, which this version does not have: train it again"
        )
    settings = {name: value for name, value in network.items() if name not in RETIRED}
    if "parts" in settings:
        settings["parts"] = [{**part, "network": read_settings(part["network"])} for part in settings["parts"]]
    return settings


def read_provenance(parts: Mapping[str, Any]) -> Provenance:
    return Provenance(
        **{**parts, "epochs": tuple(parts.get("epochs", ())), "positive": read_rule(parts.get("positive"))}
    )


def _load_weights(network: Network, path: Path) -> None:
    weights = load_file(path)
    # NaN loads silently and answers nonsense: refuse it here
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{path} holds NaN or infinite weights in {', '.join(bad)}")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit its config: {str(error).splitlines()[-1].strip()}") from error
