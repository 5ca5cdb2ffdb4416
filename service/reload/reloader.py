"""Puts another bundle in an arm's place while it serves: find it, prove it, make it known, swap, let the old one go.

One at a time, and everything that can fail comes before the swap, so that a refusal leaves the old bundle in force. The
new bundle is loaded in a thread beside the event loop; meanwhile both are in memory. The previous bundle is remembered
by folder and digest, not kept in memory: going back is a reload like any other, with the same proof.

A canary is proven in the same way and answers a share of the users beside the old bundle, until it is promoted or its
trial ends; who judges it is service/canary, in the processes that see the answers.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import structlog

from service.engine.arms import ArmSlot, Release
from service.engine.metadata import find_bundle
from service.engine.releases import (
    Canary,
    CanaryTerms,
    ReleaseListener,
    ReleaseState,
    ReloadOutcome,
    ReloadRequest,
)
from service.errors import ConfigurationError, RecallError, ReloadRefused, ReloadUnderWay, UnknownArm
from service.memory import let_go
from service.reload.comparison import Likeness, ListComparison

MIN_USES, PAUSE_S = 20, 1.0  # of a canary before it is promoted; between looks whether it has them
log = structlog.get_logger()


class Result(StrEnum):
    """The result of a reload; the label of its counter."""

    SWAPPED = "swapped"
    ROLLED_BACK = "rolled_back"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    ON_TRIAL = "on_trial"
    PROMOTED = "promoted"
    TRIAL_ENDED = "trial_ended"  # by a bound that the canary left, or by a person


class Reloader:
    """The releases of the arms whose engines are in this process. Belongs to their event loop."""

    def __init__(
        self,
        arms: Mapping[str, ArmSlot],
        folders: Mapping[str, Path],
        load: Callable[[str, Path], Release],
        comparison: ListComparison = ListComparison(),
    ) -> None:
        """folders: each arm's own, as it was given. load: proves the bundle in a folder; may take its time.

        comparison: of a proven bundle's lists with those in force.
        """
        self._arms, self._folders, self._load, self._comparison = arms, folders, load, comparison
        served = {name: slot.current for name, slot in arms.items()}
        self._states = {
            name: ReleaseState(name, release.bundle, str(release.folder), has_cache=release.has_cache)
            for name, release in served.items()
        }
        self._previous: dict[str, ReleaseState] = {}  # of an arm: what it served before
        self._listeners: list[ReleaseListener] = []
        self._is_busy = False
        self._timers: set[asyncio.Task[None]] = set()  # of trials
        self.results: Counter[tuple[str, Result]] = Counter()  # by arm
        self.likenesses: dict[str, Likeness] = {}  # by arm, of the last bundle that could be compared

    def states(self) -> Sequence[ReleaseState]:
        return tuple(self._states.values())

    def subscribe(self, listener: ReleaseListener) -> None:
        """Makes every further reload known to `listener`."""
        self._listeners.append(listener)

    async def reload(self, wanted: ReloadRequest) -> ReloadOutcome:
        """Serves another bundle, proven before and without a lost request; returns once the old one is gone.

        Raises UnknownArm, ReloadUnderWay, or ReloadRefused with the reason; then nothing has changed.
        """
        if wanted.arm not in self._arms:
            raise UnknownArm(f"no arm is called {wanted.arm[:64]!r}; there are {', '.join(self._arms)}")
        started = time.monotonic()
        if wanted.rollback and (wanted.reason or self._arms[wanted.arm].trial):
            # at once, whatever else is under way: a bad canary answers users. Where it is gone there is nothing to do
            await self._end_trial(wanted.arm, wanted.reason)
            return self._outcome(wanted.arm, False, started)
        if self._is_busy:
            raise ReloadUnderWay("another bundle is being loaded; try again when it is done")
        self._is_busy = True
        try:
            changed = await (self._promote(wanted.arm) if wanted.promote else self._replace(wanted))
        except ReloadRefused as error:
            await self._refuse(wanted.arm, str(error))
            raise
        finally:
            self._is_busy = False
        if changed:
            await asyncio.to_thread(let_go)
        return self._outcome(wanted.arm, changed, started)

    def _outcome(self, arm: str, changed: bool, started: float) -> ReloadOutcome:
        state, seconds = self._states[arm], round(time.monotonic() - started, 3)
        canary = state.canary.bundle if state.canary else None
        outcome = ReloadOutcome(state.arm, state.bundle, state.previous, changed, seconds, canary)
        likeness = self.likenesses.get(arm)
        # what was measured of another bundle, or of another time, is not told of this one
        if likeness is None or likeness.bundle != (canary or (state.bundle if changed else None)):
            return outcome
        return replace(outcome, overlap=round(likeness.overlap, 4), compared=likeness.histories)

    async def _replace(self, wanted: ReloadRequest) -> bool:
        """True where another bundle is served now. Raises ReloadRefused before anything has changed."""
        old = self._states[wanted.arm]
        if old.canary:
            raise ReloadUnderWay(f"arm {wanted.arm}: a canary is on trial; promote it, or end the trial by a roll back")
        folder, bundle = self._find(wanted)
        if bundle == old.bundle:
            self._count(wanted.arm, Result.UNCHANGED, bundle)
            await self._tell(replace(old, refusal=None))
            return False
        new = await self._prove(wanted.arm, folder)
        coming = ReleaseState(wanted.arm, new.bundle, str(new.folder), old.bundle, has_cache=new.has_cache)
        try:
            if new.bundle != bundle:
                raise ReloadRefused(f"arm {wanted.arm}: {folder} was replaced while it was read")
            await self._compare(new, wanted)
            for listener in self._listeners:
                await listener.prepare(coming)
        except RecallError:
            await new.engine.close()
            raise
        if wanted.canary:
            await self._try_out(old, new, wanted.canary)
            return False
        # from here on nothing can fail: the new release answers, then the old one ends
        self._previous[wanted.arm] = old
        gone = asyncio.create_task(self._arms[wanted.arm].swap(new))
        self._count(wanted.arm, Result.ROLLED_BACK if wanted.rollback else Result.SWAPPED, new.bundle)
        await self._tell(coming)
        await gone
        return True

    async def _compare(self, new: Release, wanted: ReloadRequest) -> None:
        """Raises ReloadRefused where its lists are too little like those in force."""
        self.likenesses.pop(wanted.arm, None)
        with self._arms[wanted.arm].lease() as old:
            likeness = await self._comparison.compare(old, new)
        if likeness is None:
            return
        self.likenesses[wanted.arm] = likeness
        # whoever goes back knows those lists, and may be in a hurry
        if not wanted.rollback and (problem := likeness.problem(self._comparison.floor)):
            raise ReloadRefused(f"arm {wanted.arm}: {problem}")

    async def _try_out(self, old: ReleaseState, new: Release, terms: CanaryTerms) -> None:
        """The new release answers a share of the users, and is promoted when its time is over."""
        self._arms[old.arm].try_out(new, terms.share)
        self._count(old.arm, Result.ON_TRIAL, new.bundle)
        canary = Canary(new.bundle, str(new.folder), terms, new.has_cache)
        await self._tell(replace(old, refusal=None, canary=canary))
        timer = asyncio.create_task(self._promote_after(old.arm, new.bundle, terms.seconds))
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)

    async def _promote_after(self, arm: str, bundle: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        slot = self._arms[arm]
        while (trial := slot.trial) and trial.release.bundle == bundle:
            # who has answered nobody has proven nothing
            if trial.num_uses >= MIN_USES and not self._is_busy:
                await self.reload(ReloadRequest(arm, promote=True))
                return
            await asyncio.sleep(PAUSE_S)

    async def _promote(self, arm: str) -> bool:
        """True: the canary is in force now. Raises ReloadRefused where there is none."""
        slot, old = self._arms[arm], self._states[arm]
        if old.canary is None or slot.trial is None:
            raise ReloadRefused(f"arm {arm}: there is no canary to promote")
        new = old.canary
        self._previous[arm] = replace(old, canary=None)
        gone = slot.promote()
        self._count(arm, Result.PROMOTED, new.bundle)
        await self._tell(ReleaseState(arm, new.bundle, new.folder, old.bundle, has_cache=new.has_cache))
        await slot.retire(gone)
        return True

    async def _end_trial(self, arm: str, reason: str | None) -> None:
        """The old release answers everybody again, and the canary ends. Where there is none, that is told once more."""
        slot = self._arms[arm]
        gone = slot.end_trial()
        if gone is None:
            # who asked knows of a trial that another engine process had, and is gone with it
            await self._tell(self._states[arm])
            return
        self._count(arm, Result.TRIAL_ENDED, reason or gone.release.bundle)
        await self._tell(replace(self._states[arm], canary=None, refusal=reason))
        await slot.retire(gone)
        await asyncio.to_thread(let_go)

    async def close(self) -> None:
        """Ends the timers of trials."""
        for timer in self._timers:
            timer.cancel()

    def _find(self, wanted: ReloadRequest) -> tuple[Path, str]:
        """The folder of the bundle that is asked for, and its digest."""
        own = self._folders[wanted.arm]
        try:
            if wanted.rollback:
                return self._find_previous(wanted.arm)
            return find_bundle(own if wanted.bundle is None else own.parent / wanted.bundle)
        except ConfigurationError as error:
            raise ReloadRefused(f"arm {wanted.arm}: {error}") from error

    def _find_previous(self, arm: str) -> tuple[Path, str]:
        previous = self._previous.get(arm)
        if previous is None:
            raise ReloadRefused(f"arm {arm}: there is no previous bundle to go back to")
        folder, bundle = find_bundle(Path(previous.folder))
        if bundle != previous.bundle:
            raise ReloadRefused(
                f"arm {arm}: the previous bundle {previous.bundle} is gone, {folder} holds {bundle} now; "
                "to go back, build each bundle into a folder of its own"
            )
        return folder, bundle

    async def _prove(self, arm: str, folder: Path) -> Release:
        """The release of the bundle in a folder. Raises ReloadRefused with the reason, whatever it is."""
        # gather hands an exception over as a value: whatever breaks while loading is a refusal, not a fault of ours
        [outcome] = await asyncio.gather(asyncio.to_thread(self._load, arm, folder), return_exceptions=True)
        if isinstance(outcome, Release):
            return outcome
        if isinstance(outcome, ConfigurationError):
            raise ReloadRefused(str(outcome)) from outcome
        raise ReloadRefused(f"arm {arm}: {folder} cannot be loaded: {outcome!r}"[:500]) from outcome

    async def _refuse(self, arm: str, reason: str) -> None:
        self._count(arm, Result.REFUSED, reason)
        await self._tell(replace(self._states[arm], refusal=reason))

    def _count(self, arm: str, result: Result, what: str) -> None:
        self.results[arm, result] += 1
        log.info("reload", arm=arm, result=result.value, bundle_or_reason=what)

    async def _tell(self, state: ReleaseState) -> None:
        self._states[state.arm] = state
        for listener in self._listeners:
            await listener.tell(self.states())
