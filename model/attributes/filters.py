"""Conditions on attributes: parsed from JSON, checked against a catalogue's attributes, evaluated over all its rows.

    {"author": {"not_in": [7, 9]}, "duration_s": {"gte": 5, "lt": 60}, "or": [{"language": "en"}, {"subtitles": true}]}

All parts of an object must hold. A condition on an item that lacks the attribute does not hold; `not_in` and `not` turn
that round.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.attributes.columns import Column, Value, is_finite
from model.attributes.table import Attributes, BadAttribute

MAX_CONDITIONS, MAX_DEPTH, MAX_MEMBERS = 32, 8, 1000
RANGES = ("gt", "gte", "lt", "lte")
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is asked of one attribute."""

    attribute: str
    operator: str  # in, not_in, exists, or one of RANGES
    values: tuple[Value, ...]

    def holds(self, attributes: Attributes) -> Flags:
        column = attributes.column(self.attribute)
        match self.operator:
            case "in":
                return column.any_of(self.values)
            case "not_in":
                return ~column.any_of(self.values)
            case "exists":
                return column.known if self.values[0] else ~column.known
        # a missing number is kept as 0, which a range may include
        return column.known & _compare(column, self.operator, self.values[0])

    def check(self, attributes: Attributes) -> None:
        """Raises BadAttribute where the attribute is not there, or cannot be asked this."""
        column_type = attributes.column(self.attribute).type
        if self.operator == "exists":
            return
        if self.operator in RANGES and not column_type.is_comparable:
            raise BadAttribute(f"{self.attribute}: {self.operator} needs numbers, and it holds {column_type}")
        if self.operator not in RANGES and not all(map(column_type.takes, self.values)):
            raise BadAttribute(f"{self.attribute}: it holds {column_type}, so ask for such values")


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions joined by and, or, not. Equal filters have equal texts."""

    operator: str  # and, or, not, or "is" of a single condition
    parts: tuple["Filter", ...] = ()
    condition: Condition | None = None

    @property
    def conditions(self) -> Iterator[Condition]:
        if self.condition:
            yield self.condition
        for part in self.parts:
            yield from part.conditions

    def check(self, attributes: Attributes) -> None:
        """Raises BadAttribute for the first condition that these attributes cannot be asked."""
        for condition in self.conditions:
            condition.check(attributes)

    def allowed(self, attributes: Attributes) -> Flags:
        """(N,) true at place r - 1 where row r passes."""
        if self.condition:
            return self.condition.holds(attributes)
        flags = [part.allowed(attributes) for part in self.parts]
        if self.operator == "not":
            return ~flags[0]
        joined: Flags = (np.logical_or if self.operator == "or" else np.logical_and).reduce(flags)
        return joined


def canonical(body: Mapping[str, object]) -> str:
    """The text of a filter: the same for bodies that differ in the order of their keys alone.

    Raises BadAttribute for a body that is no filter.
    """
    try:
        # keys sorted, so that one filter is one text: masks and copies of rows are kept by it
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise BadAttribute("a number of a filter is finite") from None
    parse_filter(text)
    return text


@lru_cache(maxsize=4096)
def parse_filter(text: str) -> Filter:
    """The filter in a text of JSON. Raises BadAttribute with one sentence."""
    parsed = _parse(json.loads(text), 1)
    if sum(1 for _ in parsed.conditions) > MAX_CONDITIONS:
        raise BadAttribute(f"a filter has at most {MAX_CONDITIONS} conditions")
    return parsed


def _parse(body: object, depth: int) -> Filter:
    if not isinstance(body, dict) or not body:
        raise BadAttribute("a filter is an object of attributes and conditions, and not empty")
    if depth > MAX_DEPTH:
        raise BadAttribute(f"a filter is at most {MAX_DEPTH} deep")
    parts = [part for name, asked in body.items() for part in _parse_entry(name, asked, depth)]
    return parts[0] if len(parts) == 1 else Filter("and", tuple(parts))


def _parse_entry(name: str, asked: object, depth: int) -> Iterator[Filter]:
    """The parts that one key of an object asks for."""
    if name == "not":
        yield Filter("not", (_parse(asked, depth + 1),))
    elif name in ("and", "or"):
        if not isinstance(asked, list) or not asked:
            raise BadAttribute(f"{name}: a list of filters")
        yield Filter(name, tuple(_parse(part, depth + 1) for part in asked))
    elif isinstance(asked, dict):
        if not asked:
            raise BadAttribute(f"{name[:64]}: a condition is one of in, not_in, exists, {', '.join(RANGES)}")
        for operator, value in asked.items():
            yield Filter("is", condition=Condition(name, operator, _operands(name, operator, value)))
    else:
        yield Filter("is", condition=Condition(name, "in", _operands(name, "in", [asked])))


def _operands(name: str, operator: str, value: object) -> tuple[Value, ...]:
    where = f"{name[:64]}.{operator[:16]}"
    if operator in ("in", "not_in"):
        if not isinstance(value, list) or not all(type(member) in (bool, int, float, str) for member in value):
            raise BadAttribute(f"{where}: a list of values")
        if len(value) > MAX_MEMBERS:
            raise BadAttribute(f"{where}: at most {MAX_MEMBERS} values")
        return tuple(value)
    if operator == "exists":
        if type(value) is not bool:
            raise BadAttribute(f"{where}: true or false")
        return (value,)
    if operator not in RANGES:
        raise BadAttribute(f"{where}: a condition is one of in, not_in, exists, {', '.join(RANGES)}")
    if not isinstance(value, int | float) or isinstance(value, bool) or not is_finite(value):
        raise BadAttribute(f"{where}: a number")
    return (value,)


def _compare(column: Column, operator: str, bound: Value) -> Flags:
    compare = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}[operator]
    flags: Flags = compare(column.numbers, bound)
    return flags
