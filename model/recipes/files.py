"""Recipe files: YAML with the parts `best`, `paper` and `ablation`, in each one section an arm, read into records.

A file holds sections (arm -> settings), or parts `best:`, `paper:`, `ablation:` with sections in each; a file without
parts is all `best`. Beside the sections may stand `common:`, settings that every section starts from, and `like: NAME`,
a recipe whose same part the sections start from. `network` and `plan` are joined key by key, the rest is replaced.
"beauty" names the part best, "beauty:paper" another. The settings are those of model/recipes/schema.py; unknown keys
are errors.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from model.recipes.schema import PlanSearch, Recipe, Stage, Window
from model.records import Placement, PromptForm

T = TypeVar("T")
FOLDER = Path(__file__).parent
PARTS = ("best", "paper", "ablation")
JOINED = ("network", "plan")
COMMON, LIKE = "common", "like"
# the parser in C, where PyYAML was built with it: the tables of the packaged recipes are long, and read many times
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Section = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecipeName:
    """One part of one recipe file."""

    text: str  # of the file: a packaged name or a .yaml path
    part: str = "best"

    @classmethod
    def of(cls, text: str) -> "RecipeName":
        """`beauty`, `beauty:paper`, `mine.yaml`, `mine.yaml:paper`."""
        name, colon, part = text.rpartition(":")
        return cls(name, part) if colon and part in PARTS else cls(text)

    @property
    def path(self) -> Path:
        return Path(self.text) if self.text.endswith((".yaml", ".yml")) else FOLDER / f"{self.text}.yaml"

    def __str__(self) -> str:
        stem = self.path.stem
        return stem if self.part == "best" else f"{stem}:{self.part}"


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_sections(name: RecipeName) -> dict[str, Section]:
    """Every section of a part, whole: what it shares is joined in.

    Raises ValueError, with the names there are, for a file or a part that is not there.
    """
    merged = _part_sections(name, ())
    common = merged.pop(COMMON, {})
    return {arm: join(common, section) for arm, section in merged.items()}


def join(base: Mapping[str, Any], over: Mapping[str, Any]) -> Section:
    """`over` on top of `base`."""
    whole = {**base, **over}
    for key in JOINED:
        if isinstance(base.get(key), Mapping) and isinstance(over.get(key), Mapping):
            whole[key] = {**base[key], **over[key]}
    return whole


def _part_sections(name: RecipeName, seen: tuple[RecipeName, ...]) -> dict[str, Section]:
    if name in seen:
        raise ValueError(f"recipe {name} is like itself, by way of {', '.join(map(str, seen))}")
    part = _part_of(_parse(name), name)
    # what is no mapping (`like`, an empty section) is no arm
    own = {str(arm): section for arm, section in part.items() if isinstance(section, dict)}
    if LIKE not in part:
        return own
    base = _part_sections(RecipeName(str(part[LIKE]), name.part), (*seen, name))
    return base | {arm: join(base.get(arm, {}), section) for arm, section in own.items()}


def _parse(name: RecipeName) -> dict[str, Any]:
    if not name.path.is_file():
        raise ValueError(f"no recipe {name.text!r}; there are {', '.join(recipe_names())}, or give a .yaml file")
    try:
        content = yaml.load(name.path.read_text(encoding="utf-8"), LOADER)  # noqa: S506  (either is safe)
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {name.path} is not YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def _part_of(content: dict[str, Any], name: RecipeName) -> dict[str, Any]:
    parts = [key for key in content if key in PARTS]
    if parts and len(parts) < len(content):
        raise ValueError(f"recipe {name.text!r} mixes {', '.join(parts)} with sections; sections stand inside them")
    # without parts the whole file is the part best
    sections = content.get(name.part) if parts or name.part != "best" else content
    if not isinstance(sections, dict):
        raise ValueError(f"recipe {name.text!r} has no part {name.part!r}; it has {', '.join(parts) or 'best'}")
    return sections


def load_recipe(name_or_path: str, arm: str) -> Recipe:
    """The section `arm` of a recipe that comes with the package, or of a YAML file; `beauty:paper` is another part.

    Raises ValueError, with the names there are, for an unknown recipe, part, arm or key.
    """
    name = RecipeName.of(name_or_path)
    sections = read_sections(name)
    if arm not in sections:
        raise ValueError(f"recipe {str(name)!r} has no arm {arm!r}; it has {', '.join(sections) or 'none'}")
    return _recipe(sections[arm], str(name), arm)


def _recipe(section: dict[str, Any], name: str, arm: str) -> Recipe:
    # lists of YAML become tuples: a recipe is frozen
    if "stages" not in section:
        raise ValueError(f"recipe {name!r}, arm {arm!r}: stages are missing; an arm that is not trained has stages: []")
    section["stages"] = tuple(_record(Stage, stage) for stage in section["stages"] or ())
    plan = section.pop("plan", {})
    if isinstance(plan, Mapping):
        lists = {key: _plan_list(key, plan[key]) for key in PLAN_LISTS if key in plan}
        plan = {**plan, **{key: tuple(map(PLAN_LISTS[key], values)) for key, values in lists.items()}}
    if section.get("parts"):
        # dim, dropout and the like of `common` are for systems; parts only have to see equally far
        section["network"] = {key: value for key, value in section.get("network", {}).items() if key == "max_length"}
    section["parts"] = tuple(_part_recipe(section, part, name, arm) for part in section.get("parts", ()))
    section["plan"] = _record(PlanSearch, plan)
    if "window" in section:
        section["window"] = _record(Window, section["window"])
    return _record(Recipe, {"name": name, "arm": arm, "system": arm} | section)


def _plan_list(key: str, values: Any) -> list[Any]:
    """The values that a plan search tries for one setting; sums alone may be empty, and then joins no steps."""
    if not isinstance(values, list) or not (values or key == "sums"):
        raise ValueError(f"plan has {key}: {values!r}; it is a list of all that shall be tried, such as [1] or [1, 2]")
    return values


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"plan has {value!r} where a whole number belongs")
    return value


# of a plan search: the settings that are lists, and the kind of their values
PLAN_LISTS: Mapping[str, Callable[[Any], Any]] = {
    "placements": Placement,
    "num_prompts": _whole,
    "num_steps": _whole,
    "forms": PromptForm,
    "sums": float,
    "part_weights": float,
}


def _part_recipe(section: Mapping[str, Any], part: Mapping[str, Any], name: str, arm: str) -> Recipe:
    """A part of a blend: what it does not say it has from the blend; the settings of its network are its own."""
    shared = {key: value for key, value in section.items() if key not in ("parts", "stages", "system", "plan")}
    network = {**section["network"], **part.get("network", {})}
    return _recipe({**shared, **part, "network": network}, name, f"{arm}/{part.get('system')}")


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
