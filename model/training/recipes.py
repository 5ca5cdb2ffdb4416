"""Recipes: one YAML a data set, one section an arm. Defaults stand here once; unknown keys are errors."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from model.records import Placement

FOLDER = Path(__file__).parent / "recipes"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of training with its own prompts and length."""

    num_epochs: int
    num_prompts: int = 0  # generated items before each real one while training (the paper's K)
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise ValueError(f"num_epochs is {self.num_epochs}; a stage needs at least 1")
        if not isinstance(self.learning_rate, float) or not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate!r}; it is a number above 0, such as 0.001")


@dataclass(frozen=True, kw_only=True)
class PlanSearch:
    """What is tried on the validation split after training; the best becomes the served plan."""

    cutoff: int = 10  # list length that is judged
    num_prompts: tuple[int, ...] = (0,)
    placements: tuple[Placement, ...] = (Placement.NONE,)
    num_steps: tuple[int, ...] = (1,)
    diversity: float = 0.0
    min_gain: float = 0.01  # a plan that costs more is taken only when it is better by this share


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one arm is trained on one data set."""

    name: str
    arm: str
    system: str
    stages: tuple[Stage, ...]
    network: Mapping[str, Any] = field(default_factory=dict)
    batch_users: int = 256
    warmup_steps: int = 200
    weight_decay: float = 0.0
    ema_decay: float = 0.998  # weights are averaged over about 1 / (1 - decay) steps; 0 = off
    evaluate_every: int = 3  # epochs
    patience: int = 4  # evaluations without a better one
    metric: str = "ndcg@10"
    max_eval_users: int = 10_000
    plan: PlanSearch = field(default_factory=PlanSearch)

    def __post_init__(self) -> None:
        for name in ("batch_users", "evaluate_every", "patience", "max_eval_users"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is a whole number of at least 1")


def recipe_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str, arm: str) -> Recipe:
    """The section `arm` of a recipe that comes with the package, or of a YAML file.

    Raises ValueError, with the names there are, for an unknown recipe, arm or key.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else FOLDER / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ValueError(f"no recipe {name_or_path!r}; there are {', '.join(recipe_names())}, or give a .yaml file")
    sections = _sections(path)
    if arm not in sections:
        raise ValueError(f"recipe {name_or_path!r} has no arm {arm!r}; it has {', '.join(sections) or 'none'}")
    return _read(dict(sections[arm]), path.stem, arm)


def _sections(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    pairs = content.items() if isinstance(content, dict) else ()
    return {str(arm): section for arm, section in pairs if isinstance(section, dict)}


def _read(section: dict[str, Any], name: str, arm: str) -> Recipe:
    # lists of YAML become tuples: a recipe is frozen
    section["stages"] = tuple(_record(Stage, stage) for stage in section.get("stages", []))
    if not section["stages"]:
        raise ValueError(f"recipe {name!r}, arm {arm!r}: stages are missing")
    plan = dict(section.pop("plan", {}))
    plan["placements"] = tuple(Placement(one) for one in plan.get("placements", ["none"]))
    plan["num_prompts"] = tuple(plan.get("num_prompts", [0]))
    plan["num_steps"] = tuple(plan.get("num_steps", [1]))
    section["plan"] = _record(PlanSearch, plan)
    return _record(Recipe, {"name": name, "arm": arm, "system": arm} | section)


def _record(kind: type[T], values: Mapping[str, Any]) -> T:
    known = fields(kind)  # type: ignore[arg-type]
    names = [f.name for f in known]
    if not isinstance(values, Mapping):
        raise ValueError(f"a recipe's {kind.__name__} is {values!r}; it must be a mapping of {', '.join(names)}")
    if unknown := set(values) - set(names):
        raise ValueError(
            f"a recipe has no {', '.join(sorted(map(str, unknown)))} in {kind.__name__}; it has {', '.join(names)}"
        )
    required = {f.name for f in known if f.default is MISSING and f.default_factory is MISSING}
    if missing := required - set(values):
        raise ValueError(f"a recipe lacks {', '.join(sorted(missing))} in {kind.__name__}")
    return kind(**values)
