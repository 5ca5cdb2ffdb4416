"""Recipe files as plain mappings: the parts `best`, `paper` and `ablation`, and what sections share.

A file holds sections (arm -> settings), or parts `best:`, `paper:`, `ablation:` with sections in each; a file without
parts is all `best`. Beside the sections may stand `common:`, settings that every section starts from, and `like: NAME`,
a recipe whose same part the sections start from. `network` and `plan` are joined key by key, the rest is replaced.
"beauty" names the part best, "beauty:paper" another. What the settings mean is known in recipes.py only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
PARTS = ("best", "paper", "ablation")
JOINED = ("network", "plan")
COMMON, LIKE = "common", "like"
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
    """Those that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_sections(name: RecipeName) -> dict[str, Section]:
    """Every section of a part, whole: what it shares is joined in.

    Raises ValueError, with the names there are, for a file or a part that is not there.
    """
    merged = _read_part(name, ())
    common = merged.pop(COMMON, {})
    return {arm: join(common, section) for arm, section in merged.items()}


def join(base: Mapping[str, Any], over: Mapping[str, Any]) -> Section:
    """`over` on top of `base`."""
    whole = {**base, **over}
    for key in JOINED:
        if isinstance(base.get(key), Mapping) and isinstance(over.get(key), Mapping):
            whole[key] = {**base[key], **over[key]}
    return whole


def _read_part(name: RecipeName, seen: tuple[RecipeName, ...]) -> dict[str, Section]:
    if name in seen:
        raise ValueError(f"recipe {name} is like itself, by way of {', '.join(map(str, seen))}")
    part = _part_of(_parse(name), name)
    # what is no mapping (`like`, an empty section) is no arm
    own = {str(arm): section for arm, section in part.items() if isinstance(section, dict)}
    if LIKE not in part:
        return own
    base = _read_part(RecipeName(str(part[LIKE]), name.part), (*seen, name))
    return base | {arm: join(base.get(arm, {}), section) for arm, section in own.items()}


def _parse(name: RecipeName) -> dict[str, Any]:
    if not name.path.is_file():
        raise ValueError(f"no recipe {name.text!r}; there are {', '.join(recipe_names())}, or give a .yaml file")
    try:
        content = yaml.safe_load(name.path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {name.path} is not YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def _part_of(content: dict[str, Any], name: RecipeName) -> dict[str, Any]:
    parts = [key for key in content if key in PARTS]
    if parts and len(parts) < len(content):
        raise ValueError(f"recipe {name.text!r} mixes {', '.join(parts)} with sections; sections stand inside them")
    # without parts the whole file is the part best
    found = content.get(name.part) if parts or name.part != "best" else content
    if not isinstance(found, dict):
        raise ValueError(f"recipe {name.text!r} has no part {name.part!r}; it has {', '.join(parts) or 'best'}")
    return found
