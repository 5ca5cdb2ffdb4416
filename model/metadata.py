"""The part of a checkpoint that needs no weights: kind, plan, window and ids.

No torch here. A process that translates ids for an engine of another process reads nothing else of a checkpoint.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.catalogue import Catalogue
from model.positive import PositiveRule, read_rule
from model.records import Placement, PromptForm, PromptPlan, ServingPlan

CONFIG, CATALOGUE = "config.json", "catalogue.npz"


@dataclass(frozen=True)
class CheckpointMetadata:
    """Enough to turn external ids into rows of a checkpoint's catalogue, and its answers back into ids."""

    kind: str  # "recgpt", "comirec" ..
    plan: ServingPlan
    window: int  # newest history items that can change the answer
    catalogue: Catalogue
    positive: PositiveRule | None = None  # by which the events of its training were chosen; None = not known
    outcomes: tuple[str, ...] = ()  # that its answer can be asked for

    @classmethod
    def read(cls, folder: Path) -> "CheckpointMetadata":
        """Raises OSError, ValueError or KeyError for what is no checkpoint; the caller has checked the digests."""
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        window = int(config["network"]["max_length"])
        rule = read_rule(config["provenance"].get("positive"))
        plan, catalogue = read_plan(config["plan"]), Catalogue.load(folder / CATALOGUE)
        return cls(config["kind"], plan, window, catalogue, rule, tuple(fit["name"] for fit in read_fits(config)))


def read_plan(parts: Mapping[str, Any]) -> ServingPlan:
    prompts = parts["prompts"]
    # plans of earlier versions have neither form nor sum, nor outcomes
    plan = PromptPlan(
        prompts["num_prompts"],
        Placement(prompts["placement"]),
        prompts["num_steps"],
        PromptForm(prompts.get("form", PromptForm.ARGMAX)),
        prompts.get("temperature", 1.0),
        tuple(prompts.get("step_weights", ())),
    )
    outcomes = tuple((str(name), float(share)) for name, share in parts.get("outcomes", ()))
    return ServingPlan(plan, tuple(parts["quotas"]), parts["diversity"], outcomes)


def read_fits(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The outcomes of a checkpoint; none in those of earlier versions."""
    fits: Sequence[Mapping[str, Any]] = config.get("outcomes", ())
    return fits
