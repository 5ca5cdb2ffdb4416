"""Rules of a request for its list: a filter, caps, boosts, diversity, an outcome. Plain values that travel.

They act on the search and on the choice among its hits, an outcome on query vectors that are known: what is cached
stays valid.
"""

from dataclasses import dataclass

MAX_CAPS, MAX_BOOSTS = 8, 8


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `most` items of the list share a value of the attribute."""

    attribute: str
    most: int


@dataclass(frozen=True, slots=True)
class Boost:
    """Adds `weight` times the spread of the request's scores to items that pass a filter, or by their age.

    By age: weight * 2 ** (-(now - value) / half_life) for a comparable attribute in the units of `now`.
    """

    weight: float  # -1 to 1
    filter: str | None = None  # canonical text
    attribute: str | None = None
    half_life: float = 1.0
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class ListRules:
    """Equal rules are equal objects, so that a batch searches each filter once."""

    filter: str | None = None  # canonical text of a filter (model/attributes/filters.py)
    caps: tuple[Cap, ...] = ()
    boosts: tuple[Boost, ...] = ()
    diversity: float = 0.0  # MMR's share of novelty, 0 to 1
    outcome: str | None = None  # that the list is asked for, in place of the plan's

    @property
    def is_shaped(self) -> bool:
        """True when the list is chosen among more hits than it is long."""
        return bool(self.caps or self.boosts or self.diversity)


NO_RULES = ListRules()
