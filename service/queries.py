"""Records of the spine: a checked request, its steps, and everything that its response says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from model.catalogue import ExternalId
from model.merging import Merged
from model.rules import NO_RULES, ListRules
from service.engine.arms import Release
from service.engine.messages import EngineRequest, EngineResult
from service.experiments.assignment import Assignment
from service.lists.reasons import Reasons


@dataclass(frozen=True, slots=True)
class RecallQuery:
    """A checked request."""

    request_id: str
    user_id: ExternalId | None = None
    history: Sequence[ExternalId] | None = None
    top_n: int = 100
    exclude: Sequence[ExternalId] = ()
    explain: bool = False
    forced: str | None = None  # a variation or arm asked for with a QA key
    pinned: str | None = None  # an arm named in the path: never an exposure
    deadline: float = float("inf")  # time.monotonic()
    rules: ListRules = NO_RULES
    min_catalogue: int = 0  # the change of the catalogue that the answer has to know
    is_bulk: bool = False  # a member of a batch
    in_force: bool = False  # the bundle in force answers, though a canary may have this user

    @property
    def canary_user(self) -> str | None:
        """The user by whom a canary is chosen; a request without one is its own. None = no canary."""
        return None if self.in_force else self.unit or self.request_id

    @property
    def is_plain(self) -> bool:
        """True when nothing is asked that a block of many users cannot carry."""
        return self.rules == NO_RULES and not self.explain and not self.min_catalogue

    @property
    def unit(self) -> str | None:
        return None if self.user_id is None else str(self.user_id)

    def pinned_to(self, arm: str) -> "RecallQuery":
        """The same query to one arm, outside any experiment."""
        return replace(self, pinned=arm, forced=None)


@dataclass(frozen=True, slots=True)
class RecallResult:
    """Everything a response says, and what the exposure log needs."""

    request_id: str
    arm: Release
    assignment: Assignment
    served: str
    listed: Merged
    prompts: list[ExternalId]  # where the query wants them explained
    cache: str
    degraded: list[str]
    timings_ms: Mapping[str, float]  # to a thousandth; users of a batch share them
    catalogue: int = 0  # the last change of the catalogue that the list knows
    reasons: Reasons | None = None  # of the first items listed; those filled up have none

    @property
    def bundle(self) -> str:
        return self.arm.bundle

    @property
    def item_ids(self) -> NDArray[Any]:
        """The external ids listed, best first."""
        return self.arm.items.snapshot.column(self.listed.rows)

    @property
    def scores(self) -> NDArray[Any]:
        """The score of each item listed."""
        return self.listed.scores


class Read(NamedTuple):
    """A query with its arm and its history."""

    query: RecallQuery
    assignment: Assignment
    history: Sequence[ExternalId]
    degraded: list[str]


class Asked(NamedTuple):
    """A request in rows of one release, and what its engine answered; None when its batch failed."""

    release: Release
    request: EngineRequest
    result: EngineResult | None


def without_hidden(
    queries: Sequence[RecallQuery], hidden: Sequence[Sequence[ExternalId] | None], degraded: Sequence[list[str]]
) -> list[RecallQuery]:
    """The queries with what their users have hidden among the excluded; the same object where that is nothing.

    hidden: by query; None where the store could not say, which the query's `degraded` then tells.
    """
    read = []
    for query, items, shortfall in zip(queries, hidden, degraded, strict=True):
        if items is None:
            shortfall.append("hidden_unavailable")
        read.append(replace(query, exclude=(*query.exclude, *items)) if items else query)
    return read
