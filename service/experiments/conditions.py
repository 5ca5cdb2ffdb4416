"""Attributes of requests, and the conditions of rules on them.

A request has a user's id and a session's id, as text, and whatever it names in `attributes`: texts, numbers, true and
false, lists of these. A condition that no such request could meet would be false for everybody, so it is refused.

Two conditions are told apart where one attribute cannot meet both: a text that is another, numbers or versions that
begin where the others end. What is not as simple as that counts as two that a request may meet.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Annotated, Any, NamedTuple

from growthbook.core import evalConditionValue, paddedVersionString
from pydantic import Field, StringConstraints

USER, SESSION = "user_id", "session_id"
UNITS = (USER, SESSION)  # the attributes by which a rule may choose
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")  # of an attribute; a dot would ask for a part of an object
AttributeName = Annotated[str, StringConstraints(strict=True, pattern=f"^{NAME.pattern}$")]
AttributeText = Annotated[str, StringConstraints(strict=True, max_length=256)]
AttributeScalar = Annotated[bool, Field(strict=True)] | Annotated[float, Field(allow_inf_nan=False)] | AttributeText
AttributeValue = AttributeScalar | Annotated[list[AttributeScalar], Field(max_length=64)]
GROUPS = ("$inGroup", "$notInGroup")  # operators on lists that the file does not hold
REGEX = "$regex"
FEW = 64  # times, up to which a repeat is bounded
MAX_JUDGED = 5_000  # parts of conditions and filters that a request may have to be judged by, each some 1.6 us
MAX_UNBOUNDED = 2  # such repeats, of texts of 256 characters: some 65,000 steps


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


def num_judged(asked: object) -> int:
    """The parts of a condition or of filters: names of attributes, operators, ranges, alternatives; no plain values."""
    total, left = 0, [asked]
    while left:
        part = left.pop()
        values = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        inner = [value for value in values if isinstance(value, dict | list)]
        total += len(part) if isinstance(part, dict) else len(inner)
        left += inner
    return total


class Apart(NamedTuple):
    """The attribute by which two conditions exclude each other."""

    attribute: str
    is_single: bool  # only where requests name one value: a list may hold values of both


def told_apart(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> Apart | None:
    """The attribute that no request can have as both conditions ask for it; None where that is not plain."""
    pairs = product(_parts(first or {}), _parts(second or {}))
    shared = [(name, left, right) for (name, left), (other, right) in pairs if name == other]
    proofs = [Apart(name, own) for name, left, right in shared for own in _apart(left, right)]
    # the one that asks least of requests
    return min(proofs, key=lambda proof: proof.is_single, default=None)


class AskedSize(NamedTuple):
    """The size of what a condition asks of one attribute."""

    operators: int
    values: int


def sizes_by_attribute(condition: Mapping[str, Any] | None) -> dict[str, AskedSize]:
    """How much `told_apart` has to look at, by attribute."""
    sizes: dict[str, AskedSize] = {}
    for name, asked in _parts(condition or {}):
        before, left = sizes.get(name, AskedSize(0, 0)), [asked]
        operators = values = 0
        while left:
            part = left.pop()
            left += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
            operators += max(1, len(part)) if isinstance(part, dict) else 0
            values += len(part) if isinstance(part, list) else 0
        sizes[name] = AskedSize(before.operators + max(1, operators), before.values + max(1, values))
    return sizes


def _parts(condition: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names each attribute with the part of the condition on it; all of them have to be met."""
    for key, value in condition.items():
        if key == "$and" and isinstance(value, list):
            for part in value:
                yield from _parts(part) if isinstance(part, dict) else ()
        elif not key.startswith("$"):
            yield key, value


def _apart(left: object, right: object) -> Iterator[bool]:
    """Each proof that no value meets both: whether it holds for single values only."""
    for asked in (left, right):
        values, is_list = _values(asked)
        # GrowthBook's own judgement of each value, whatever the other side asks for
        if values is not None and not any(
            evalConditionValue(left, value, {}) and evalConditionValue(right, value, {}) for value in values
        ):
            yield is_list
    for ends, begins in ((left, right), (right, left)):
        for (high, has_high, kind), (low, has_low, other) in product(_bounds(ends, "lt"), _bounds(begins, "gt")):
            if kind == other and (high < low or (high == low and not (has_high and has_low))):
                yield False


def _values(asked: object) -> tuple[list[Any] | None, bool]:
    """The values that alone can meet it, None = not a few; and whether a list that holds one of them does so too."""
    if not isinstance(asked, dict):
        return (None if isinstance(asked, list) else [asked]), False
    if "$eq" in asked:
        return [asked["$eq"]], False
    if isinstance(asked.get("$in"), list):
        return asked["$in"], True
    return None, False


def _bounds(asked: object, side: str) -> Iterator[tuple[Any, bool, str]]:
    """Bounds of one side, whether they are included, and of what: numbers and versions do not compare."""
    for name, value in asked.items() if isinstance(asked, dict) else ():
        if name in (f"${side}", f"${side}e") and isinstance(value, int | float) and not isinstance(value, bool):
            yield value, name.endswith("e"), "number"
        elif name in (f"$v{side}", f"$v{side}e") and isinstance(value, str):
            yield paddedVersionString(value), name.endswith("e"), "version"


def slow_pattern(condition: Mapping[str, Any]) -> str | None:
    """Returns a pattern of a condition, however deep, that may take too long or is none; None where there is none.

    Python's engine goes back over what it has matched. A repeat inside a repeat ("(a+)+") then takes time exponential
    in the text, which is a caller's, and each further repeat without a small bound another factor of its length.
    """
    return next((pattern for pattern in _patterns(condition) if _is_slow(pattern)), None)


def _patterns(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from _patterns(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from [part] if key == REGEX and isinstance(part, str) else _patterns(part)


def _is_slow(pattern: str) -> bool:
    try:
        repeats = [*_repeats(parser.parse(pattern), inside=False)]
    except (re.error, RecursionError, OverflowError):
        return True
    return any(is_nested for _, is_nested in repeats) or sum(most > FEW for most, _ in repeats) > MAX_UNBOUNDED


def _repeats(part: Any, inside: bool) -> Iterator[tuple[int, bool]]:
    """(times at most, stands in another repeat) of each repeat; a choice within a repeat counts as one."""
    for code, given in part:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            _, most, repeated = given
            if most > 1:
                yield int(most), inside
            yield from _repeats(repeated, inside or most > 1)
        elif code is codes.BRANCH:
            if inside:
                yield 1, True
            for choice in given[1]:
                yield from _repeats(choice, inside)
        else:
            # groups, what looks ahead or back, and conditional groups hold patterns among their parts
            for own in given if isinstance(given, tuple) else (given,):
                if isinstance(own, parser.SubPattern):
                    yield from _repeats(own, inside)
