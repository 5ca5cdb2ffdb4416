"""The step that gives a request its arm: the policy's, with the sticky buckets that its unit has where those count.

Nothing is read for a request that no kept bucket can concern, and a store that does not answer leaves the hash to
decide, which the assignment then says.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from service.clock import within
from service.engine.arms import ArmSlot
from service.errors import UnknownArm
from service.experiments.assignment import Assignment, Reason, new_bucket
from service.experiments.conditions import NO_FACTS, Buckets, RequestFacts, unit_key
from service.fallback import turning_point
from service.queries import RecallQuery
from service.steps.interleaving import fitting
from service.stores.buckets import BucketStore


class AssignmentPolicy(Protocol):
    """Chooses arms (service/experiments/assignment.py)."""

    @property
    def bucket_units(self) -> tuple[str, ...]:
        """The attributes whose kept buckets it needs; none = an assignment is the hash alone."""
        ...

    def assign(self, user: str | None, forced: str | None = None, facts: RequestFacts = NO_FACTS) -> Assignment: ...


class Assigning:
    """Says which arm answers. Belongs to one event loop."""

    def __init__(
        self, arms: Mapping[str, ArmSlot], policy: AssignmentPolicy, buckets: BucketStore | None = None
    ) -> None:
        """buckets: None where the service keeps none."""
        self._arms, self._policy, self._buckets = arms, policy, buckets

    async def assign(self, queries: Sequence[RecallQuery]) -> list[Assignment]:
        """The arm that each query names itself, or the experiment's; in order. Raises UnknownArm, BadRequest.

        The buckets of all are read in one call.
        """
        buckets, units = self._buckets, self._policy.bucket_units
        if buckets is None or not units:
            return [self._pinned(query) or self._assign(query, query.facts) for query in queries]
        kept = await _read(queries, units, buckets)
        return [self._pinned(query) or self._assign_sticky(query, kept, buckets) for query in queries]

    def _pinned(self, query: RecallQuery) -> Assignment | None:
        if query.pinned is None:
            return None
        slot_of(self._arms, query.pinned)
        return Assignment(query.pinned, Reason.PINNED, "")

    def _assign(self, query: RecallQuery, facts: RequestFacts) -> Assignment:
        return fitting(self._policy.assign(query.unit, query.forced, facts), query)

    def _assign_sticky(
        self, query: RecallQuery, kept: Mapping[str, Buckets | None], buckets: BucketStore
    ) -> Assignment:
        keys = _keys_of(query, self._policy.bucket_units)
        own = [kept.get(key) for key in keys]
        # a unit that could not be read might decide: then none of them does
        known = None if None in own else {key: each for key, each in zip(keys, own, strict=True) if each}
        assignment = self._assign(query, query.facts._replace(kept=known))
        for each in (assignment, *assignment.crossed):
            unit = query.unit_by(each.by)
            if unit and known is not None and (bucket := new_bucket(each, unit, known)):
                buckets.keep(unit_key(each.by, unit), bucket)
        return assignment


async def _read(
    queries: Sequence[RecallQuery], names: Sequence[str], buckets: BucketStore
) -> Mapping[str, Buckets | None]:
    """The buckets of every unit by which a query may be assigned; None where the store does not say in time."""
    asked = [query for query in queries if query.forced is None and query.pinned is None]
    units = list(dict.fromkeys(key for query in asked for key in _keys_of(query, names)))
    if not units:
        return {}
    until = turning_point(min(query.deadline for query in asked))
    read = await within(until, buckets.read(units))
    return dict(zip(units, read or [None] * len(units), strict=True))


def _keys_of(query: RecallQuery, names: Sequence[str]) -> list[str]:
    """The units of a query by which it may be assigned."""
    return [unit_key(name, unit) for name in names if (unit := query.unit_by(name))]


def slot_of(arms: Mapping[str, ArmSlot], name: str) -> ArmSlot:
    """Raises UnknownArm for a name that none of them has."""
    if name not in arms:
        raise UnknownArm(f"no arm is called {name[:64]!r}; there are {', '.join(arms)}")
    return arms[name]
