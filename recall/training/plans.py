"""Another plan for a trained checkpoint: items that are generated, steps, shares of the list, diversity, outcomes.

Nothing is trained and nothing measured: what a plan gains is for validation (`recall evaluate`) or for a test to say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from model.metadata import read_plan
from model.records import Placement, PromptForm, ServingPlan


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",") if part]


def _outcomes(text: str) -> list[tuple[str, float]]:
    """From "long_view:0.8,like:0.2"; a name without a share has all of the list."""
    pairs = [part.partition(":") for part in text.split(",") if part]
    return [(name, float(share) if mark else 1.0) for name, mark, share in pairs]


OF_PROMPTS: Mapping[str, Callable[[str], Any]] = {
    "num_prompts": int,
    "placement": Placement,
    "num_steps": int,
    "form": PromptForm,
    "temperature": float,
    "step_weights": _numbers(float),
}
OF_PLAN: Mapping[str, Callable[[str], Any]] = {"quotas": _numbers(int), "diversity": float, "outcomes": _outcomes}


def change_plan(plan: ServingPlan, words: Sequence[str]) -> ServingPlan:
    """The plan with other values, from ["num_steps=2", "quotas=7,3"]. Raises ValueError for what is no plan."""
    parts = asdict(plan)
    for word in words:
        name, mark, text = word.partition("=")
        read = OF_PROMPTS.get(name) or OF_PLAN.get(name)
        if read is None or not mark:
            known = ", ".join([*OF_PROMPTS, *OF_PLAN])
            raise ValueError(f"--plan is {word[:64]!r}; it takes NAME=VALUE with one of {known}")
        try:
            value = read(text)
        except ValueError:
            raise ValueError(f"--plan {name}: {text[:64]!r} is no value of it") from None
        (parts["prompts"] if name in OF_PROMPTS else parts)[name] = value
    changed = read_plan(parts)
    prompts = changed.prompts
    if (prompts.num_prompts > 0) is not (prompts.placement is not Placement.NONE):
        raise ValueError("--plan: num_prompts above 0 and a placement (tail or all) belong together")
    return changed


def save_with_plan(checkpoint: Path, words: Sequence[str], folder: Path) -> None:
    """Writes the checkpoint with another plan to `folder`, without the metrics of the plan it had.

    Raises CheckpointError for what is no checkpoint, ValueError for what is no plan; whether the network can have it
    the build finds out, which answers by it.
    """
    from model.checkpoint import Checkpoint

    trained = Checkpoint.load(checkpoint)
    plan = change_plan(trained.plan, words)
    replace(trained, plan=plan, provenance=replace(trained.provenance, metrics={})).save(folder)
