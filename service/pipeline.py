"""The spine: request -> experiment -> history -> query vectors -> index search -> merge -> response.

Each step has one line in `recall`; vectors, search and merge are the engine's. Imports no torch, FAISS or FastAPI.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from model.catalogue import ExternalId
from model.records import History
from model.rules import ListRules
from service.catalogue.state import LiveState
from service.clock import Clock
from service.engine.arms import ArmSlot, Member, Release, with_current
from service.engine.blocks import RequestBlock, ResultBlock
from service.engine.messages import EngineRequest, EngineResult
from service.errors import CatalogueBehind, DeadlineExceeded, EngineFailed, RecallError
from service.experiments.assignment import Assignment
from service.fallback import FALLBACK, filled, is_filled, reasons, shortfalls, turning_point
from service.queries import AnyResult, Asked, Read, RecallQuery, RecallResult, outcome_of, without_hidden
from service.scheduling.turns import Turns
from service.steps.assigning import Assigning, AssignmentPolicy, slot_of
from service.steps.interleaving import is_alike, recall_both
from service.steps.kept import KeptOfUsers
from service.steps.unshown import UnshownLists, without_shown
from service.stores.buckets import BucketStore
from service.stores.history import HistoryStore
from service.stores.shown import MemoryShown
from service.stores.vector_codec import CachedVectors

BUSY_SECONDS = 2.0  # an engine that computed a batch this lately is alive
CHANGE_SECONDS = 2.0  # that a request waits for a change of the catalogue which it demands to see
LISTS_A_ROUND = 8  # written in one round of the event loop: some 2 ms
NAMES_SECONDS = 0.25  # until an item of the engine's has a name here


class RecallPipeline:
    """Answers requests with the arms it was given."""

    def __init__(
        self,
        arms: Mapping[str, ArmSlot],
        assigner: AssignmentPolicy,
        histories: HistoryStore,
        changes: LiveState | None = None,
        unshown: UnshownLists | None = None,
        buckets: BucketStore | None = None,
    ) -> None:
        """changes: of the catalogue, as far as this process knows them; None = there are none.

        unshown: makes lists without what their users were shown; None = with a memory in this process. buckets: sticky
        ones; None = the hash alone decides.
        """
        self.arms, self._kept = arms, KeptOfUsers(histories)
        self._assigning = Assigning(arms, assigner, buckets)
        self._turns = Turns(LISTS_A_ROUND)
        self._changes, self._unshown = changes or LiveState(), unshown or UnshownLists(MemoryShown(), histories)

    async def recall(self, query: RecallQuery, assignment: Assignment | None = None) -> AnyResult:
        """Raises UnknownArm, Overloaded or DeadlineExceeded.

        A failed engine is answered by the labelled fallback, and so is a deadline that is too near to compute anything.
        assignment: of this query, where the caller has to know it even if this raises.
        """
        assignment = assignment or await self.assign(query)

        async def ask(own: RecallQuery) -> AnyResult:
            if assignment.teams:
                return await recall_both(own, assignment, self._kept.history, self._recall_one)
            return await self._recall_one(own, assignment)

        return await (self._unshown.recall(query, ask) if query.not_shown else ask(query))

    async def _recall_one(self, query: RecallQuery, assignment: Assignment, known: Sequence[str] = ()) -> RecallResult:
        """The list of one arm. known: shortfalls of what the query was given."""
        clock, degraded = Clock(), list(known)
        until = turning_point(query.deadline)
        if query.min_catalogue:
            await self._changes.wait_for(query.min_catalogue, min(query.deadline, time.monotonic() + CHANGE_SECONDS))
        # what the user has hidden is read while the engine computes: hardly any list holds such an item
        may_have = self._kept.may_have_hidden
        reading = asyncio.ensure_future(self._kept.hidden([query], until)) if may_have(query) else None
        try:
            read = Read(query, assignment, await self._kept.history(query, until, degraded), degraded)
            clock.lap("history")
            asked = await self._find(read, until)
            # looked at again: another process may have kept the user's first hide since
            if reading or may_have(query):
                [hidden] = await (reading or self._kept.hidden([query], until))
                read, asked = await self._leave_out(read, asked, hidden, until)
        finally:
            if reading:
                reading.cancel()
        clock.lap("find")
        timings_ms = clock.timings_ms(asked.result.timings_ms if asked.result else {})
        return self._answer(read, asked, timings_ms)

    async def _find(self, read: Read, until: float) -> Asked:
        """The engine's answer to a query, from the release that answers now."""
        query = read.query

        async def find(release: Release) -> Asked:
            # in here, not before: rows belong to one release's catalogue, and another release may take its place
            request = release.request(
                query.user_id, read.history, query.exclude, query.top_n, read.rules_for(release), until, query.explain
            )
            request = replace(request, min_catalogue=query.min_catalogue) if query.min_catalogue else request
            request = request.in_bulk() if query.is_bulk else request
            request = await without_shown(release, request, query)
            return Asked(release, request, await self._ask(release, request, read))

        return await self._with_names(await with_current(self.arms[read.assignment.arm], find, query.canary_user))

    async def _leave_out(
        self, read: Read, asked: Asked, hidden: Sequence[ExternalId] | None, until: float
    ) -> tuple[Read, Asked]:
        """The same without the items that the user has hidden: asked anew where the list holds one of them."""
        [query] = without_hidden([read.query], [hidden], [read.degraded])
        if query is read.query:
            return read, asked
        read = read._replace(query=query)
        rows = frozenset(asked.release.request(query.user_id, (), query.exclude).excluded)
        if asked.result and not rows.isdisjoint(asked.result.merged.rows.tolist()):
            return read, await self._find(read, until)
        # the list stands; what fills it up has to know
        return read, asked._replace(request=replace(asked.request, excluded=rows.union(asked.request.excluded)))

    async def recall_many(
        self, queries: Sequence[RecallQuery], assignments: Sequence[Assignment] | None = None
    ) -> list[AnyResult | RecallError]:
        """The outcomes in order, each what `recall` returns or raises; the queries of one arm are one piece of work.

        assignments: of each query, as in `recall`. Those with rules or two arms go one by one. Raises UnknownArm.
        """
        assignments = assignments or await self.assign_many(queries)
        if not all(map(is_alike, queries, assignments)):
            return await self._recall_mixed(queries, assignments)
        clock = Clock()
        degraded: list[list[str]] = [[] for _ in queries]
        # a task each, so only for those who have to wait for the store
        absent = [n for n, query in enumerate(queries) if query.history is None and query.unit is not None]
        until = turning_point(min((query.deadline for query in queries), default=float("inf")))
        reading = asyncio.gather(*(self._kept.history(queries[n], until, degraded[n]) for n in absent))
        hidden, kept = await asyncio.gather(self._kept.hidden(queries, until), reading)
        queries = without_hidden(queries, hidden, degraded)
        histories = [query.history or () for query in queries]
        for n, history in zip(absent, kept, strict=True):
            histories[n] = history
        clock.lap("history")
        reads = [*map(Read, queries, assignments, histories, degraded)]
        arms = {assignment.arm for assignment in assignments}
        by_arm = {arm: [read for read in reads if read.assignment.arm == arm] for arm in arms}
        answered = await asyncio.gather(*(self._answer_block(arm, own, clock) for arm, own in by_arm.items()))
        # a group keeps the order of its members
        left = {arm: iter(outcomes) for arm, outcomes in zip(by_arm, answered, strict=True)}
        return [next(left[read.assignment.arm]) for read in reads]

    async def _recall_mixed(
        self, queries: Sequence[RecallQuery], assignments: Sequence[Assignment]
    ) -> list[AnyResult | RecallError]:
        """The same, where some have rules or an answer of two arms."""
        pairs = list(zip(queries, assignments, strict=True))
        plain = [pair for pair in pairs if is_alike(*pair)]
        others = [outcome_of(self.recall(*pair)) for pair in pairs if not is_alike(*pair)]
        block = self.recall_many([query for query, _ in plain], [assignment for _, assignment in plain])
        together, apart = await asyncio.gather(block, asyncio.gather(*others))
        left = {True: iter(together), False: iter(apart)}
        return [next(left[is_alike(*pair)]) for pair in pairs]

    async def _answer_block(self, arm: str, reads: Sequence[Read], clock: Clock) -> Sequence[AnyResult | RecallError]:
        """The outcomes of queries to one arm, from one block."""
        started = time.perf_counter()
        members = [Member(r.query.user_id, r.history, r.query.exclude, r.query.top_n) for r in reads]
        until = turning_point(min(read.query.deadline for read in reads))

        async def find(release: Release) -> tuple[Release, RequestBlock, ResultBlock | EngineFailed | DeadlineExceeded]:
            block = release.block(members, until)
            try:
                return release, block, await release.engine.ask_block(block)
            except (EngineFailed, DeadlineExceeded) as error:
                return release, block, error

        try:
            release, block, results = await with_current(self.arms[arm], find, reads[0].query.canary_user)
        except RecallError as error:
            return [error] * len(reads)
        find_ms = {"find": 1e3 * (time.perf_counter() - started)}
        batch_ms: Mapping[str, float] = {}
        outcomes: Sequence[EngineResult | RecallError]
        if isinstance(results, RecallError):
            outcomes = [results] * block.size
        else:
            # the users of a block share the times of their batch
            batch_ms, outcomes = results.timings_ms, results.outcomes()
        timings_ms = clock.timings_ms({**find_ms, **batch_ms})
        answers: list[AnyResult | RecallError] = []
        for read, request, outcome in zip(reads, block.requests(), outcomes, strict=True):
            result = outcome if isinstance(outcome, EngineResult) else None
            if isinstance(outcome, RecallError) and not is_filled(outcome, read.query.answer_by):
                answers.append(outcome)
            else:
                read.degraded.extend(shortfalls(outcome))
                asked = await self._with_names(Asked(release, request, result))
                answers.append(self._answer(read, asked, timings_ms))
        return answers

    def _answer(self, read: Read, asked: Asked, timings_ms: Mapping[str, float]) -> RecallResult:
        query, (arm, request, result) = read.query, asked
        degraded = [*read.assignment.degraded, *read.degraded, *read.unmet(request.rules), *reasons(request, result)]
        listed = filled(arm, request, result, degraded)
        # the assignment stands whatever was served: an experiment is analysed by what was meant to be shown
        return RecallResult(
            query.request_id,
            arm,
            read.assignment,
            served=arm.name if result else FALLBACK,
            listed=listed,
            prompts=arm.prompts(result.vectors) if result and query.explain else [],
            cache="off" if not result or not request.key else "hit" if result.known else "miss",
            degraded=degraded,
            timings_ms=timings_ms,
            catalogue=result.catalogue if result else arm.items.snapshot.number,
            reasons=result.reasons if result else None,
            outcome=request.rules.outcome,
        )

    async def embed(
        self, arm: str, user: ExternalId | None, history: Sequence[ExternalId], outcome: str | None, deadline: float
    ) -> tuple[Release, CachedVectors]:
        """Query vectors alone, and the release they belong to. Raises what `recall` and `Engine.ask` raise."""

        async def encode(release: Release) -> tuple[Release, CachedVectors]:
            request = release.request(user, history, rules=ListRules(outcome=outcome), deadline=deadline)
            return release, (await release.engine.ask(request)).vectors

        return await with_current(slot_of(self.arms, arm), encode)

    def problems(self) -> dict[str, str]:
        """Returns the reason why nothing is computed now, for each arm of which that is so."""
        return {name: problem for name, slot in self.arms.items() if (problem := slot.current.engine.problem)}

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

        await with_current(slot_of(self.arms, arm), ask)

    async def assign(self, query: RecallQuery) -> Assignment:
        """The arm of the path, or the experiment's. Raises UnknownArm."""
        [assignment] = await self.assign_many([query])
        return assignment

    async def assign_many(self, queries: Sequence[RecallQuery]) -> list[Assignment]:
        """The same of each query, in order; what is kept of their units is read in one call."""
        return await self._assigning.assign(queries)

    async def _with_names(self, asked: Asked) -> Asked:
        """The same once the names of its items are known here.

        The engine's process may have read changes that this one has not. What has no name in time is left out.
        """
        arm, _, result = asked
        # a list that knows of no change holds the bundle's items alone
        if not result or not result.catalogue or not len(result.merged.rows):
            return asked
        if result.merged.rows.max() <= arm.items.snapshot.num_rows:
            return asked
        with suppress(CatalogueBehind):
            await self._changes.wait_for(result.catalogue, time.monotonic() + NAMES_SECONDS)
        known = result.merged.rows <= arm.items.snapshot.num_rows
        return asked if known.all() else asked._replace(result=result.only(known))

    async def _ask(self, arm: Release, request: EngineRequest, read: Read) -> EngineResult | None:
        """The engine's result; None when its batch failed, or when there is still time to say less."""
        try:
            result = await arm.engine.ask(request)
            await self._turns.take()  # a whole batch is answered at once, and each of it has a list to write
        except (EngineFailed, DeadlineExceeded) as error:
            if not is_filled(error, read.query.answer_by):
                raise
            read.degraded.extend(shortfalls(error))
            return None
        read.degraded.extend(shortfalls(result))
        return result
