"""Attributes of requests, and the conditions of rules on them.

A request has a user's id and a session's id, as text, and whatever it names in `attributes`: texts, numbers, true and
false, lists of these. A condition that no such request could meet would be false for everybody, so it is refused.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, StringConstraints

USER, SESSION = "user_id", "session_id"
UNITS = (USER, SESSION)  # the attributes by which a rule may choose
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")  # of an attribute; a dot would ask for a part of an object
AttributeName = Annotated[str, StringConstraints(strict=True, pattern=f"^{NAME.pattern}$")]
AttributeText = Annotated[str, StringConstraints(strict=True, max_length=256)]
AttributeScalar = Annotated[bool, Field(strict=True)] | Annotated[float, Field(allow_inf_nan=False)] | AttributeText
AttributeValue = AttributeScalar | Annotated[list[AttributeScalar], Field(max_length=64)]
GROUPS = ("$inGroup", "$notInGroup")  # operators on lists that the file does not hold


Buckets = Mapping[str, str]  # of a unit: EXPERIMENT__VERSION -> the key of its variation


class RequestFacts(NamedTuple):
    """All but the user that an assignment depends on."""

    session: str | None = None
    attributes: Mapping[str, Any] = {}  # by NAME
    kept: Mapping[str, Buckets] | None = None  # sticky buckets by `unit_key`; None where they could not be read


NO_FACTS = RequestFacts()


def unit_key(attribute: str, value: str) -> str:
    """The name of a unit among those of every attribute, as GrowthBook writes it."""
    return f"{attribute}||{value}"


def logged_unit(attribute: str, value: str) -> str:
    """The name of a unit in exposures and feedback: a user's is the id itself, a session's bears its attribute."""
    return value if attribute == USER else unit_key(attribute, value)


def unknown_attribute(condition: Mapping[str, Any]) -> str | None:
    """A part of a condition that asks for what no request has; None where there is none."""
    for key, value in condition.items():
        if key in ("$and", "$or", "$nor") and isinstance(value, list):
            parts = [part for part in value if isinstance(part, dict)]
        elif key == "$not" and isinstance(value, dict):
            parts = [value]
        elif key in UNITS and not _is_text(value):
            return f"{key} that is no text"
        elif not NAME.fullmatch(key):
            return key
        elif group := next((name for name in GROUPS if isinstance(value, dict) and name in value), None):
            return f"{key} {group}"
        else:
            continue
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
