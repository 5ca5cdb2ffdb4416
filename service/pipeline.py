"""The spine: request -> experiment -> history -> query vectors -> index search -> merge -> answer.

Each step has one line in `recall`.

Imports protocols and records only: no torch, FAISS, Redis or FastAPI.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from model.catalogue import ExternalId
from model.merging import Merged
from model.records import History
from service.engine.arms import Arm
from service.engine.fill import complete
from service.engine.messages import EMPTY, EngineRequest, EngineResult
from service.errors import DeadlineExceeded, EngineFailed, Overloaded, RecallError, UnknownArm
from service.experiments.assignment import Assignment, Reason
from service.stores.history import HistoryStore
from service.stores.vector_cache import VectorCache
from service.stores.vector_codec import CachedVectors, cache_key
from service.telemetry.quality import overlap

FALLBACK = "fallback"
BUSY_SECONDS = 2.0  # an engine that computed a batch this lately is alive


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

    @property
    def unit(self) -> str | None:
        return None if self.user_id is None else str(self.user_id)


@dataclass(frozen=True, slots=True)
class RecallResult:
    """Everything a response says, and what the exposure log needs."""

    request_id: str
    arm: Arm
    assignment: Assignment
    served: str
    listed: Merged
    prompts: list[ExternalId]
    cache: str
    degraded: list[str]
    timings_ms: dict[str, float]


class RecallPipeline:
    """Answers requests with the arms it was given."""

    def __init__(
        self,
        arms: Mapping[str, Arm],
        assigner: AssignmentPolicy,
        histories: HistoryStore,
        cache: VectorCache | None,
        caches_elsewhere: bool = False,
    ) -> None:
        """caches_elsewhere: vectors are cached beside engines of another process, which need the keys."""
        self.arms, self.assigner, self._histories = arms, assigner, histories
        self._has_cache = cache is not None or caches_elsewhere
        for arm in arms.values():
            arm.engine.cache = cache

    async def recall(self, ask: RecallQuery) -> RecallResult:
        """Raises UnknownArm, Overloaded or DeadlineExceeded; a failed engine is answered by the labelled fallback."""
        clock, degraded = Clock(), list[str]()
        assignment = self.assign(ask)
        arm = self.arms[assignment.arm]
        external = await self._history(ask, degraded)
        clock.lap("history")
        history, excluded = self._to_rows(arm, ask, external, degraded)
        key = self._key(arm, history)
        found: EngineResult | None = None
        try:
            found = await arm.engine.ask(EngineRequest(history, ask.top_n, excluded, deadline=ask.deadline, key=key))
        except EngineFailed:
            degraded.append(FALLBACK)
        served, merged = (arm.name, found.merged) if found else (FALLBACK, EMPTY)
        cache = "off" if not found or not key else "hit" if found.known else "miss"
        clock.lap("find")
        listed = complete(arm.catalogue, merged, excluded, ask.top_n)
        if len(listed.rows) > len(merged.rows):
            degraded.append("filled")
        prompts = arm.catalogue.items.external(row for row in found.vectors.prompts.tolist() if row) if found else []
        timings = {**clock.laps_ms, **(found.timings_ms if found else {}), "total": clock.total_ms}
        return RecallResult(ask.request_id, arm, assignment, served, listed, prompts, cache, degraded, timings)

    async def overlap(self, ask: RecallQuery, answer: RecallResult) -> float | None:
        """The share of items that the other arms would have answered too; None when one of them cannot say."""
        others = [name for name in self.arms if name != answer.arm.name]
        try:
            answers = [await self.recall(replace(ask, pinned=name, forced=None)) for name in others]
        except RecallError:
            return None
        return overlap([one.arm.catalogue.items.column(one.listed.rows) for one in (answer, *answers)])

    def assign(self, ask: RecallQuery) -> Assignment:
        """The arm of the path, or the experiment's."""
        if ask.pinned is None:
            return self.assigner.assign(ask.unit, ask.forced)
        if ask.pinned not in self.arms:
            raise UnknownArm(f"no arm is called {ask.pinned[:64]!r}; there are {', '.join(self.arms)}")
        return Assignment(ask.pinned, Reason.PINNED, "")

    async def vectors(self, arm: Arm, history: History, deadline: float = float("inf")) -> CachedVectors:
        """Query vectors alone, for POST /embed."""
        key = self._key(arm, history)
        return (await arm.engine.ask(EngineRequest(history, 0, deadline=deadline, key=key))).vectors

    def _key(self, arm: Arm, history: History) -> bytes | None:
        return cache_key(arm.bundle, arm.plan_digest, history) if self._has_cache else None

    async def probe(self, arm: Arm, deadline: float) -> None:
        """Raises what a request would raise when the arm's engine does not answer; a busy engine that works is well."""
        try:
            await arm.engine.ask(EngineRequest(History(()), 1, deadline=deadline))
        except (Overloaded, DeadlineExceeded):
            if time.monotonic() - arm.engine.last_batch_at > BUSY_SECONDS:
                raise

    async def _history(self, ask: RecallQuery, degraded: list[str]) -> Sequence[ExternalId]:
        """The history sent, or the one kept; what is sent is taken as it is."""
        if ask.history is not None or ask.unit is None:
            return ask.history or ()
        # None is not the same as empty: the store could not be asked
        kept = await self._histories.recent(ask.unit)
        if kept is None:
            degraded.append("history_unavailable")
        return kept or ()

    def _to_rows(
        self, arm: Arm, ask: RecallQuery, external: Sequence[ExternalId], degraded: list[str]
    ) -> tuple[History, frozenset[int]]:
        """Rows of the known ids, cut to the window: the cache key then holds only what can change the vectors."""
        rows = arm.catalogue.items.rows(external)
        if len(rows) < len(external):
            degraded.append("unknown_items")
        if not rows:
            degraded.append("cold_start")
        # an unknown user is row 0, which training knows
        user = arm.catalogue.users.row(ask.user_id)
        return History(rows[-arm.window :], user), frozenset(rows).union(arm.catalogue.items.rows(ask.exclude))


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
