"""Conditions of rules: of all attributes that GrowthBook knows, requests carry the user's id alone, as text.

A condition on anything else would be false for everybody, so it is refused instead.
"""

from collections.abc import Mapping
from typing import Any

HASH_ATTRIBUTE = "user_id"


def unknown_attribute(condition: Mapping[str, Any]) -> str | None:
    """A part of a condition that asks for more than the user's id as text; None where there is none."""
    for key, value in condition.items():
        if key in ("$and", "$or", "$nor") and isinstance(value, list):
            parts = [part for part in value if isinstance(part, dict)]
        elif key == "$not" and isinstance(value, dict):
            parts = [value]
        elif key == HASH_ATTRIBUTE:
            if not _is_text(value):
                return f"{HASH_ATTRIBUTE} that is no text"
            continue
        else:
            return key
        if unknown := next(filter(None, map(unknown_attribute, parts)), None):
            return unknown
    return None


def _is_text(value: object) -> bool:
    """A text, a list of texts, or operators on them: ids are compared as text."""
    if isinstance(value, list):
        return all(isinstance(part, str) for part in value)
    if isinstance(value, dict):
        return all(name in ("$exists",) or _is_text(part) for name, part in value.items())
    return isinstance(value, str)
