"""The spine: request -> experiment -> history -> query vectors -> index search -> merge -> response.

Each step has one line in `recall`; vectors, search and merge are the engine's. Imports no torch, FAISS or FastAPI.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

from numpy.typing import NDArray

from model.catalogue import ExternalId
from model.merging import Merged
from model.records import History
from model.rules import NO_RULES, ListRules
from service.catalogue.state import LiveState
from service.engine.arms import ArmSlot, Release
from service.engine.fill import complete
from service.engine.messages import EMPTY, EngineRequest, EngineResult
from service.errors import CatalogueBehind, DeadlineExceeded, EngineFailed, Overloaded, StaleRelease, UnknownArm
from service.experiments.assignment import Assignment, Reason
from service.lists.reasons import Reasons
from service.stores.history import HistoryStore
from service.stores.vector_codec import CachedVectors

FALLBACK = "fallback"
BUSY_SECONDS = 2.0  # an engine that computed a batch this lately is alive
CHANGE_SECONDS = 2.0  # that a request waits for a change of the catalogue which it demands to see
NAMES_SECONDS = 0.25  # until an item of the engine's has a name here
MAX_RELEASES = 3  # tried for one request; each refusal of an engine makes the release that it serves current
T = TypeVar("T")


class AssignmentPolicy(Protocol):
    """Chooses arms (service/experiments/assignment.py)."""

    def assign(self, unit: str | None, forced: str | None = None) -> Assignment: ...


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
    prompts: list[ExternalId]
    cache: str
    degraded: list[str]
    timings_ms: dict[str, float]
    catalogue: int = 0  # the last change of the catalogue that the list knows
    reasons: Reasons | None = None  # of the first items listed; those filled up have none

    @property
    def bundle(self) -> str:
        return self.arm.bundle

    @property
    def item_ids(self) -> NDArray[Any]:
        """The external ids listed, best first."""
        return self.arm.items.snapshot.column(self.listed.rows)


class RecallPipeline:
    """Answers requests with the arms it was given."""

    def __init__(
        self,
        arms: Mapping[str, ArmSlot],
        assigner: AssignmentPolicy,
        histories: HistoryStore,
        changes: LiveState | None = None,
    ) -> None:
        """changes: of the catalogue, as far as this process knows them; None = there are none."""
        self.arms, self.assigner, self._histories = arms, assigner, histories
        self._changes = changes or LiveState()

    async def recall(self, query: RecallQuery) -> RecallResult:
        """Raises UnknownArm, Overloaded or DeadlineExceeded; a failed engine is answered by the labelled fallback."""
        clock, degraded = Clock(), list[str]()
        assignment = self.assign(query)
        if query.min_catalogue:
            await self._changes.wait_for(query.min_catalogue, min(query.deadline, time.monotonic() + CHANGE_SECONDS))
        history = await self._history(query, degraded)
        clock.lap("history")

        async def find(release: Release) -> Asked:
            request = release.request(
                query.user_id, history, query.exclude, query.top_n, query.rules, query.deadline, query.explain
            )
            request = replace(request, min_catalogue=query.min_catalogue) if query.min_catalogue else request
            return Asked(release, request, await self._ask(release, request))

        arm, request, result = await with_current(self.arms[assignment.arm], find)
        if result:
            result = await self._with_names(arm, result)
        degraded += reasons(request, result)
        clock.lap("find")
        listed = self._fill(arm, request, result, degraded)
        return RecallResult(
            query.request_id,
            arm,
            assignment,
            served=arm.name if result else FALLBACK,
            listed=listed,
            prompts=arm.prompts(result.vectors) if result else [],
            cache="off" if not result or not request.key else "hit" if result.known else "miss",
            degraded=degraded,
            timings_ms={**clock.laps_ms, **(result.timings_ms if result else {}), "total": clock.total_ms},
            catalogue=result.catalogue if result else arm.items.snapshot.number,
            reasons=result.reasons if result else None,
        )

    async def embed(
        self, arm: str, user: ExternalId | None, history: Sequence[ExternalId], deadline: float = float("inf")
    ) -> tuple[Release, CachedVectors]:
        """Query vectors alone, and the release they belong to. Raises UnknownArm and what `Engine.ask` raises."""

        async def encode(release: Release) -> tuple[Release, CachedVectors]:
            request = release.request(user, history, deadline=deadline)
            return release, (await release.engine.ask(request)).vectors

        return await with_current(self._slot(arm), encode)

    async def engine_states(self, deadline: float) -> dict[str, str]:
        """For each arm "ok", or the name of the error that its engine gives now."""
        probes = [self.probe(arm, deadline) for arm in self.arms]
        # an exception here is an outcome, not a failure of the caller
        outcomes = await asyncio.gather(*probes, return_exceptions=True)
        return {name: type(error).__name__ if error else "ok" for name, error in zip(self.arms, outcomes, strict=True)}

    async def probe(self, arm: str, deadline: float) -> None:
        """Raises what a request would raise when the arm's engine does not answer; a busy engine that works is well."""

        async def ask(release: Release) -> None:
            try:
                await release.engine.ask(EngineRequest(History(()), 1, deadline=deadline))
            except (Overloaded, DeadlineExceeded):
                if time.monotonic() - release.engine.last_batch_at > BUSY_SECONDS:
                    raise

        await with_current(self._slot(arm), ask)

    def assign(self, query: RecallQuery) -> Assignment:
        """The arm of the path, or the experiment's."""
        if query.pinned is None:
            return self.assigner.assign(query.unit, query.forced)
        self._slot(query.pinned)
        return Assignment(query.pinned, Reason.PINNED, "")

    def _slot(self, arm: str) -> ArmSlot:
        if arm not in self.arms:
            raise UnknownArm(f"no arm is called {arm[:64]!r}; there are {', '.join(self.arms)}")
        return self.arms[arm]

    async def _history(self, query: RecallQuery, degraded: list[str]) -> Sequence[ExternalId]:
        """The history sent, or the one kept; a history that was sent is taken as it is."""
        if query.history is not None or query.unit is None:
            return query.history or ()
        # None is not the same as empty: the store could not be asked
        kept = await self._histories.recent(query.unit)
        if kept is None:
            degraded.append("history_unavailable")
        return kept or ()

    async def _with_names(self, arm: Release, result: EngineResult) -> EngineResult:
        """The result once the names of its items are known here.

        The engine's process may have read changes that this one has not. What has no name in time is left out.
        """
        rows, num_known = result.merged.rows, arm.items.snapshot.num_rows
        if not len(rows) or rows.max() <= num_known:
            return result
        with suppress(CatalogueBehind):
            await self._changes.wait_for(result.catalogue, time.monotonic() + NAMES_SECONDS)
        known = rows <= arm.items.snapshot.num_rows
        return result if known.all() else result.only(known)

    @staticmethod
    async def _ask(arm: Release, request: EngineRequest) -> EngineResult | None:
        """The engine's result; None when its batch failed."""
        try:
            return await arm.engine.ask(request)
        except EngineFailed:
            return None

    @staticmethod
    def _fill(arm: Release, request: EngineRequest, result: EngineResult | None, degraded: list[str]) -> Merged:
        """The list of the result, filled up with popular items where it is short."""
        merged = result.merged if result else EMPTY
        listed = complete(arm.items, merged, request)
        if len(listed.rows) > len(merged.rows):
            degraded.append("filled")
        if len(listed.rows) < request.limit and request.rules != NO_RULES:
            degraded.append("rules_leave_fewer")
        return listed


class Asked(NamedTuple):
    """A request in rows of one release, and what its engine answered; None when its batch failed."""

    release: Release
    request: EngineRequest
    result: EngineResult | None


async def with_current(slot: ArmSlot, ask: Callable[[Release], Awaitable[T]]) -> T:
    """The outcome of `ask` with the release that answers now; asked anew where another took its place on the way.

    Raises what `ask` raises.
    """
    for _ in range(MAX_RELEASES - 1):
        with slot.lease() as release, suppress(StaleRelease):
            return await ask(release)
    with slot.lease() as release:
        return await ask(release)


def reasons(request: EngineRequest, result: EngineResult | None) -> list[str]:
    """The reasons why an answer is less than it could be."""
    states = {"unknown_items": bool(request.unknown), "cold_start": request.is_cold, FALLBACK: result is None}
    return [name for name, holds in states.items() if holds]


class Clock:
    """Milliseconds a step."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.laps_ms: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps_ms[name] = 1e3 * (now - self._last)
        self._last = now

    @property
    def total_ms(self) -> float:
        return 1e3 * (time.perf_counter() - self._start)
