"""Records of the spine: a checked request, its steps, and everything that its response says."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.catalogue import ExternalId
from model.merging import Merged
from model.rules import NO_RULES, ListRules
from service.engine.arms import Release
from service.engine.messages import EngineRequest, EngineResult
from service.errors import RecallError
from service.experiments.assignment import Assignment
from service.experiments.conditions import SESSION, RequestFacts
from service.experiments.team_draft import Draft
from service.lists.reasons import Reasons

OUTCOME_UNKNOWN = "outcome_unknown"  # an experiment asks for an outcome that the arm's bundle does not have


@dataclass(frozen=True, slots=True)
class RecallQuery:
    """A checked request."""

    request_id: str
    user_id: ExternalId | None = None
    session_id: ExternalId | None = None  # of the session or device: a unit for those without a user
    attributes: Mapping[str, Any] = field(default_factory=dict)  # that conditions of experiments ask for
    history: Sequence[ExternalId] | None = None
    top_n: int = 100
    exclude: Sequence[ExternalId] = ()
    explain: bool = False
    forced: str | None = None  # a variation or arm asked for with a QA key
    pinned: str | None = None  # an arm named in the path: never an exposure
    deadline: float = float("inf")  # time.monotonic()
    is_patient: bool = False  # the caller named no deadline, and waits on: a late list is more to them than an error
    rules: ListRules = NO_RULES
    min_catalogue: int = 0  # the change of the catalogue that the answer has to know
    is_bulk: bool = False  # a member of a batch
    in_force: bool = False  # the bundle in force answers, though a canary may have this user
    not_shown: bool = False  # without what the user was shown before, of which this answer is then a part
    shown: NDArray[np.uint32] | None = None  # marks of items to leave out; read where `not_shown` asks for it

    @property
    def answer_by(self) -> float:
        """The moment from which on no list is worth sending."""
        return float("inf") if self.is_patient else self.deadline

    @property
    def canary_user(self) -> str | None:
        """The user or session by whom a canary is chosen; a request without one is its own. None = no canary."""
        return None if self.in_force else self.unit or self.session or self.request_id

    @property
    def is_plain(self) -> bool:
        """True when nothing is asked that a block of many users cannot carry."""
        is_ruled = self.rules != NO_RULES or self.not_shown
        return not (is_ruled or self.explain or self.min_catalogue)

    @property
    def can_interleave(self) -> bool:
        """False where the whole list is bound by a rule that two lists would keep each by itself, and together not."""
        return not self.rules.caps and not self.rules.diversity

    @property
    def unit(self) -> str | None:
        return None if self.user_id is None else str(self.user_id)

    @property
    def session(self) -> str | None:
        return None if self.session_id is None else str(self.session_id)

    @property
    def facts(self) -> RequestFacts:
        """All but the user that an experiment may look at."""
        return RequestFacts(self.session, self.attributes)

    def unit_by(self, attribute: str) -> str | None:
        """The value of an attribute by which experiments may choose; None where the request has none."""
        return self.session if attribute == SESSION else self.unit

    def pinned_to(self, arm: str) -> "RecallQuery":
        """The same query to one arm, outside any experiment; nobody is shown its answer."""
        return replace(self, pinned=arm, forced=None, not_shown=False)


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
    outcome: str | None = None  # that the query asked for

    @property
    def arm_name(self) -> str:
        return self.arm.name

    @property
    def parts(self) -> "tuple[RecallResult, ...]":
        """The lists that the answer consists of."""
        return (self,)

    @property
    def provenance(self) -> None:
        """Nothing: all items are of one arm."""
        return None

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

    def with_degraded(self, more: Sequence[str]) -> "RecallResult":
        """The same with more reasons why it is less than it could be."""
        return replace(self, degraded=[*self.degraded, *more]) if more else self


class Provenance(NamedTuple):
    """The teams of an interleaved list: their variations' keys, and of each item which it was taken from, 0 or 1."""

    teams: tuple[str, ...]
    picks: tuple[int, ...]
    in_both: int  # items that both teams' lists hold, wherever they were taken from


@dataclass(frozen=True, slots=True)
class InterleavedResult:
    """The answer of two arms: one list out of theirs. It is read like a RecallResult."""

    request_id: str
    assignment: Assignment
    served: str
    parts: tuple[RecallResult, ...]  # of each team
    draft: Draft
    provenance: Provenance
    timings_ms: Mapping[str, float]  # of the slower part, but for the total

    @property
    def arm_name(self) -> str:
        return self.assignment.arm

    @property
    def bundle(self) -> str:
        """The digests of both releases."""
        return "+".join(part.bundle for part in self.parts)

    @property
    def item_ids(self) -> NDArray[Any]:
        """The external ids listed, best first."""
        ids = self.chosen([part.item_ids.tolist() for part in self.parts])
        # one arm may know integers and the other texts
        return np.array(ids, dtype=np.int64 if all(isinstance(item, int) for item in ids) else object)

    @property
    def scores(self) -> NDArray[Any]:
        """The score that its own arm gave each item: those of two arms do not compare."""
        return np.array(self.chosen([part.scores for part in self.parts]), dtype=np.float32)

    @property
    def cache(self) -> str:
        known = {part.cache for part in self.parts}
        return known.pop() if len(known) == 1 else "miss"

    @property
    def degraded(self) -> list[str]:
        return list(dict.fromkeys(cause for part in self.parts for cause in part.degraded))

    @property
    def catalogue(self) -> int:
        return min(part.catalogue for part in self.parts)

    def with_degraded(self, more: Sequence[str]) -> "InterleavedResult":
        """The same with more reasons why it is less than it could be."""
        return replace(self, parts=(self.parts[0].with_degraded(more), *self.parts[1:]))

    def chosen(self, columns: Sequence[Any]) -> list[Any]:
        """The column of the mixed list out of that of each part."""
        return [columns[team][place] for team, place in zip(*self.draft, strict=True)]


AnyResult = RecallResult | InterleavedResult


async def outcome_of(answer: Awaitable[AnyResult]) -> AnyResult | RecallError:
    """The answer, or the error that it raises: of many, one must not end the others."""
    try:
        return await answer
    except RecallError as error:
        return error


class Read(NamedTuple):
    """A query with its arm and its history."""

    query: RecallQuery
    assignment: Assignment
    history: Sequence[ExternalId]
    degraded: list[str]

    @property
    def rules(self) -> ListRules:
        """The rules of its list: its own, and what an experiment says where it says nothing itself."""
        rules, settings = self.query.rules, self.assignment.settings
        if settings is None:
            return rules
        outcome = settings.outcome if rules.outcome is None else rules.outcome
        return replace(rules, outcome=outcome, diversity=rules.diversity or settings.diversity)

    def rules_for(self, release: Release) -> ListRules:
        """The same without an outcome of the experiment's that this bundle does not have: its list is the plain one.

        An outcome that the request itself asks for stays, and is refused.
        """
        rules = self.rules
        is_known = rules.outcome is None or rules.outcome in release.outcomes
        return rules if is_known or self.query.rules.outcome is not None else replace(rules, outcome=None)

    def unmet(self, rules: ListRules) -> list[str]:
        """The reasons why a list that was made with these is less than the experiment asks for."""
        return [OUTCOME_UNKNOWN] if rules.outcome != self.rules.outcome else []


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
