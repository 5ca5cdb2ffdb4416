"""Puts another bundle in an arm's place while it serves: find it, prove it, make it known, swap, let the old one go.

One at a time, and everything that can fail comes before the swap, so that a refusal leaves the old bundle in force. The
new bundle is loaded in a thread beside the event loop; meanwhile both are in memory. The previous bundle is remembered
by folder and digest, not kept in memory: going back is a reload like any other, with the same proof.
"""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import structlog

from service.engine.arms import ArmSlot, Release
from service.engine.loading import release_memory
from service.engine.metadata import find_bundle
from service.engine.releases import ReleaseListener, ReleaseState, ReloadOutcome, ReloadRequest
from service.errors import ConfigurationError, RecallError, ReloadRefused, ReloadUnderWay, UnknownArm

log = structlog.get_logger()


class Result(StrEnum):
    """The result of a reload; the label of its counter."""

    SWAPPED = "swapped"
    ROLLED_BACK = "rolled_back"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class Reloader:
    """The releases of the arms whose engines are in this process. Belongs to their event loop."""

    def __init__(
        self, arms: Mapping[str, ArmSlot], folders: Mapping[str, Path], load: Callable[[str, Path], Release]
    ) -> None:
        """folders: each arm's own, as it was given. load: proves the bundle in a folder; may take its time."""
        self._arms, self._folders, self._load = arms, folders, load
        served = {name: slot.current for name, slot in arms.items()}
        self._states = {
            name: ReleaseState(name, release.bundle, str(release.folder), has_cache=release.has_cache)
            for name, release in served.items()
        }
        self._previous: dict[str, ReleaseState] = {}  # of an arm: what it served before
        self._listeners: list[ReleaseListener] = []
        self._is_busy = False
        self.results: Counter[tuple[str, Result]] = Counter()  # by arm

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
        if self._is_busy:
            raise ReloadUnderWay("another bundle is being loaded; try again when it is done")
        self._is_busy, started = True, time.monotonic()
        try:
            changed = await self._replace(wanted)
        except ReloadRefused as error:
            await self._refuse(wanted.arm, str(error))
            raise
        finally:
            self._is_busy = False
        if changed:
            await asyncio.to_thread(let_go)
        state = self._states[wanted.arm]
        return ReloadOutcome(state.arm, state.bundle, state.previous, changed, round(time.monotonic() - started, 3))

    async def _replace(self, wanted: ReloadRequest) -> bool:
        """True where another bundle is served now. Raises ReloadRefused before anything has changed."""
        old = self._states[wanted.arm]
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
            for listener in self._listeners:
                await listener.prepare(coming)
        except RecallError:
            await new.engine.close()
            raise
        # from here on nothing can fail: the new release answers, then the old one ends
        self._previous[wanted.arm] = old
        gone = asyncio.create_task(self._arms[wanted.arm].swap(new))
        self._count(wanted.arm, Result.ROLLED_BACK if wanted.rollback else Result.SWAPPED, new.bundle)
        await self._tell(coming)
        await gone
        return True

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


def let_go() -> None:
    """Frees what the old release and the loading of the new one left behind, and hands it back to the system."""
    # loading leaves cycles that hold the network; what a service froze at its start is not walked again
    gc.collect()
    if gc.get_freeze_count():
        gc.freeze()
    release_memory()
