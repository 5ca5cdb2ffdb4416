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
from service.engine.arms import ArmSlot, Release
from service.engine.fill import complete
from service.engine.messages import EMPTY, EngineRequest, EngineResult
from service.errors import DeadlineExceeded, EngineFailed, StaleRelease, UnknownArm
from service.experiments.assignment import Assignment, Reason
from service.stores.history import HistoryStore
from service.stores.vector_codec import CachedVectors

FALLBACK = "fallback"
NEAR_S, SHARE = 0.02, 0.2  # before its deadline a request is given the fallback: so long, or this share of its time
BUSY_SECONDS = 2.0  # an engine that computed a batch this lately is alive
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
    is_bulk: bool = False  # a member of a batch

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

    @property
    def bundle(self) -> str:
        return self.arm.bundle

    @property
    def item_ids(self) -> NDArray[Any]:
        """The external ids listed, best first."""
        return self.arm.catalogue.items.column(self.listed.rows)


class RecallPipeline:
    """Answers requests with the arms it was given."""

    def __init__(self, arms: Mapping[str, ArmSlot], assigner: AssignmentPolicy, histories: HistoryStore) -> None:
        self.arms, self.assigner, self._histories = arms, assigner, histories

    async def recall(self, query: RecallQuery) -> RecallResult:
        """Raises UnknownArm, Overloaded or DeadlineExceeded.

        A failed engine is answered by the labelled fallback, and so is a deadline that is too near to compute anything.
        """
        clock, degraded = Clock(), list[str]()
        until = turning_point(query.deadline)
        assignment = self.assign(query)
        history = await self._history(query, until, degraded)
        clock.lap("history")

        async def find(release: Release) -> Asked:
            request = release.request(query.user_id, history, query.exclude, query.top_n, deadline=until)
            request = request.in_bulk() if query.is_bulk else request
            return Asked(release, request, await self._ask(release, request, query.deadline, degraded))

        arm, request, result = await with_current(self.arms[assignment.arm], find)
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
        )

    async def embed(
        self, arm: str, user: ExternalId | None, history: Sequence[ExternalId], deadline: float = float("inf")
    ) -> tuple[Release, CachedVectors]:
        """Query vectors alone, and the release they belong to. Raises UnknownArm and what `Engine.ask` raises."""

        async def encode(release: Release) -> tuple[Release, CachedVectors]:
            request = release.request(user, history, deadline=deadline)
            return release, (await release.engine.ask(request)).vectors

        return await with_current(self._slot(arm), encode)

    def problems(self) -> dict[str, str]:
        """Returns the reason why nothing is computed now, for each arm of which that is so."""
        reasons = {name: slot.current.engine.problem for name, slot in self.arms.items()}
        return {name: reason for name, reason in reasons.items() if reason}

    async def engine_states(self, deadline: float) -> dict[str, str]:
        """For each arm "ok", or the name of the error that its engine gives now."""
        probes = [self.probe(arm, deadline) for arm in self.arms]
        # an exception here is an outcome, not a failure of the caller
        outcomes = await asyncio.gather(*probes, return_exceptions=True)
        return {name: type(error).__name__ if error else "ok" for name, error in zip(self.arms, outcomes, strict=True)}

    async def probe(self, arm: str, deadline: float) -> None:
        """Raises what a request would raise when the arm's engine does not answer; a busy engine that works is well."""

        async def ask(release: Release) -> None:
            if release.engine.problem:
                raise EngineFailed(release.engine.problem)
            # asked only where it has not just computed: a busy engine is well, and a probe would wait its turn
            if time.monotonic() - release.engine.last_batch_at > BUSY_SECONDS:
                await release.engine.ask(EngineRequest(History(()), 1, deadline=deadline))

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

    async def _history(self, query: RecallQuery, until: float, degraded: list[str]) -> Sequence[ExternalId]:
        """The history sent, or the one kept; a history that was sent is taken as it is."""
        if query.history is not None or query.unit is None:
            return query.history or ()
        # None is not the same as empty: the store could not be asked
        kept: Sequence[ExternalId] | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout_at(None if until == float("inf") else until):
                kept = await self._histories.recent(query.unit)
        if kept is None:
            degraded.append("history_unavailable")
        return kept or ()

    @staticmethod
    async def _ask(arm: Release, request: EngineRequest, deadline: float, degraded: list[str]) -> EngineResult | None:
        """The engine's result; None when its batch failed, or when there is still time to say less."""
        try:
            result = await arm.engine.ask(request)
        except EngineFailed:
            return None
        except DeadlineExceeded:
            if time.monotonic() >= deadline:
                raise
            degraded.append("deadline")
            return None
        if result.is_cheap:
            degraded.append("one_step")
        return result

    @staticmethod
    def _fill(arm: Release, request: EngineRequest, result: EngineResult | None, degraded: list[str]) -> Merged:
        """The list of the result, filled up with popular items where it is short."""
        merged = result.merged if result else EMPTY
        listed = complete(arm.catalogue, merged, request)
        if len(listed.rows) > len(merged.rows):
            degraded.append("filled")
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


def turning_point(deadline: float) -> float:
    """The moment from which on there is time for the fallback alone."""
    left = deadline - time.monotonic()
    return deadline - min(NEAR_S, SHARE * max(left, 0.0)) if left < float("inf") else deadline


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
