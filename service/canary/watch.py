"""Watches the canaries that answer in this process: counts, compares lists, and ends the trial of a bad one.

Each process judges by what it sees itself, and any of them may end a trial: the one that meets trouble first does, and
no process waits for numbers of another. A list is compared after its answer, in a task of its own.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

import structlog

from service.canary.evidence import Evidence
from service.engine.arms import ArmSlot
from service.engine.releases import Releases, ReloadRequest
from service.errors import RecallError
from service.experiments.shadow import share_in_common
from service.fallback import FALLBACK
from service.pipeline import RecallPipeline
from service.queries import RecallQuery, RecallResult

LOOK_S, COMPARE_S, SERVER_ERROR = 1.0, 5.0, 500  # between looks, for a comparison; statuses from here on are ours
COMPARE_EVERY_S = 0.5  # of an arm, at most: comparing costs what an answer costs
log = structlog.get_logger()


class CanaryWatch:
    """The canaries of one process. Belongs to its event loop; `close` it there."""

    def __init__(self, pipeline: RecallPipeline, releases: Releases) -> None:
        self._pipeline, self._releases = pipeline, releases
        self.evidence: dict[str, Evidence] = {}  # by arm, of the trial under way or of the last one
        self._compared_at: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def arms(self) -> Mapping[str, ArmSlot]:
        return self._pipeline.arms

    def answered(self, query: RecallQuery, result: RecallResult) -> bool:
        """Takes an answer; True where a canary gave it. Costs nothing while there is none."""
        trial = self.arms[result.arm.name].trial
        if trial is None:
            return False
        evidence = self._evidence(result.arm.name, trial.release.bundle)
        is_canary = result.bundle == evidence.bundle
        is_good = result.served != FALLBACK
        side = evidence.canary if is_canary else evidence.in_force
        side.add(is_good, result.timings_ms.get("find", 0.0))
        if is_canary and is_good:
            self._compare(query, result, evidence)
        return is_canary

    def failed(self, query: RecallQuery, arm: str, error: RecallError) -> None:
        """Takes a request that was answered by an error; only those that are ours say something of a bundle."""
        trial = self.arms[arm].trial
        if trial is None or error.status < SERVER_ERROR:
            return
        evidence = self._evidence(arm, trial.release.bundle)
        is_canary = query.canary_user is not None and trial.includes(query.canary_user)
        (evidence.canary if is_canary else evidence.in_force).add(False, 0.0)

    async def run(self) -> None:
        """Judges every LOOK_S until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for state in self._releases.states():
                if state.canary and (reason := self._judge(state.arm, state.canary.bundle)):
                    await self._end(state.arm, f"arm {state.arm}: the canary {state.canary.bundle} is out: {reason}")

    def _judge(self, arm: str, bundle: str) -> str | None:
        terms = next(state.canary.terms for state in self._releases.states() if state.arm == arm and state.canary)
        evidence, trial = self._evidence(arm, bundle), self.arms[arm].trial
        if trial and trial.release.bundle == bundle:
            evidence.take_raised(trial.num_failed)
        return evidence.verdict(terms)

    async def _end(self, arm: str, reason: str) -> None:
        log.error("canary_rolled_back", arm=arm, reason=reason)
        try:
            await self._releases.reload(ReloadRequest(arm, rollback=True, reason=reason))
        except RecallError as error:
            # tried again at the next look
            log.warning("canary_not_ended", arm=arm, error=str(error))

    def _evidence(self, arm: str, bundle: str) -> Evidence:
        evidence = self.evidence.get(arm)
        # another bundle is another trial: nothing of the last one is held against it
        if evidence is None or evidence.bundle != bundle:
            evidence = self.evidence[arm] = Evidence(bundle)
        return evidence

    def _compare(self, query: RecallQuery, result: RecallResult, evidence: Evidence) -> None:
        now, arm = time.monotonic(), result.arm.name
        if now - self._compared_at.get(arm, float("-inf")) < COMPARE_EVERY_S:
            return
        self._compared_at[arm] = now
        task = asyncio.create_task(self._ask_in_force(query, result, evidence))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask_in_force(self, query: RecallQuery, result: RecallResult, evidence: Evidence) -> None:
        same = replace(query.pinned_to(result.arm.name), in_force=True, deadline=time.monotonic() + COMPARE_S)
        try:
            usual = await self._pipeline.recall(same)
        except RecallError:
            # the bundle in force cannot answer now: that says nothing of the canary
            return
        # the trial may have ended meanwhile: then the canary itself has answered as the one in force
        if usual.served != FALLBACK and usual.bundle != evidence.bundle:
            evidence.add_overlap(share_in_common([result.item_ids, usual.item_ids]))

    async def close(self) -> None:
        """Ends the comparisons under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
