"""A recipe as plain values, and the digest by which two trainings are the same."""

import hashlib
import json
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

from model.recipes.schema import Recipe

NAMES_ONLY = ("name", "arm")  # of a recipe, and of the parts of a blend


def recipe_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings of a recipe without its names."""
    return settings_of(recipe)


def recipe_digest(recipe: Recipe) -> str:
    """The same for the same training, whatever file it was written in."""
    return hashlib.sha256(json.dumps(recipe_settings(recipe), sort_keys=True).encode()).hexdigest()[:16]


def settings_of(record: Any) -> dict[str, Any]:
    """A record as plain values, without what stands at its default: a new setting does not change old digests."""
    values: dict[str, Any] = {}
    for f in (f for f in fields(record) if f.name not in NAMES_ONLY):
        value = getattr(record, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if value != default:
            values[f.name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return settings_of(value)
    if isinstance(value, Enum):
        return value.value
    return [_plain(member) for member in value] if isinstance(value, tuple) else value
