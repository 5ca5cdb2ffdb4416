"""Keeps the releases of an HTTP process those of the engine process, which proves bundles and decides what is served.

A new bundle's ids are read before the engine process serves it, so that the change itself is an assignment. A process
that missed it (it was starting) finds out from the refusal of its next request, and reads them then.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from service.catalogue.state import LiveState
from service.engine.arms import ArmSlot, Release
from service.engine.metadata import load_arm_metadata
from service.engine.releases import ReleaseState, ReloadOutcome, ReloadRequest
from service.errors import ConfigurationError
from service.remote.engine import RemoteEngine
from service.remote.link import EngineLink

START_S = 30.0  # the engine process tells within what it serves
log = structlog.get_logger()


class Follower:
    """The releases of one HTTP process. Belongs to its event loop."""

    def __init__(
        self,
        link: EngineLink,
        states: Sequence[ReleaseState],
        releases: Mapping[str, Release],
        items: LiveState | None = None,
    ) -> None:
        """releases: those of `states`, by arm. items: the state of the catalogue here. Make it with `follow_engine`."""
        self.arms = {name: ArmSlot(release) for name, release in releases.items()}
        self._link, self._states, self._items = link, tuple(states), items
        self._prepared: dict[str, Release] = {}  # by arm: what comes next
        self._catching_up: dict[str, asyncio.Task[None]] = {}

    def states(self) -> Sequence[ReleaseState]:
        return self._states

    async def reload(self, wanted: ReloadRequest) -> ReloadOutcome:
        """Asks the engine process, which does it for all. Raises what Reloader.reload raises."""
        return await self._link.reload(wanted)

    async def prepare(self, coming: ReleaseState) -> None:
        """Reads the ids of a bundle that comes next. Raises ConfigurationError with the reason."""
        self._prepared[coming.arm] = await self._read(coming)

    def follow(self, states: Sequence[ReleaseState]) -> None:
        """Serves from now on what the engine process serves, where it is prepared; else the next request finds out."""
        self._states = tuple(states)
        for state in states:
            follow_state(self.arms[state.arm], state, self._prepared.pop(state.arm, None))

    async def catch_up(self, arm: str, stale: str) -> None:
        """Returns once another bundle than `stale` is served here, or none could be read; whoever waits asks again."""
        slot = self.arms[arm]
        if slot.trial and slot.trial.release.bundle == stale:
            # the canary is gone, perhaps with its engine process: the bundle in force answers
            slot.end_trial()
            self._states = tuple(replace(s, canary=None) if s.arm == arm else s for s in self._states)
            return
        if slot.current.bundle != stale:
            return
        if prepared := self._prepared.pop(arm, None):
            self.arms[arm].put(prepared)
            return
        if arm not in self._catching_up:
            task = self._catching_up[arm] = asyncio.create_task(self._refresh(arm))
            task.add_done_callback(lambda _: self._catching_up.pop(arm))
        # the first who waits may leave: the others wait on
        await asyncio.shield(self._catching_up[arm])

    async def _refresh(self, arm: str) -> None:
        states = await self._link.releases()
        self._states = tuple(states)
        state = next(state for state in states if state.arm == arm)
        try:
            self.arms[arm].put(await self._read(state))
        except ConfigurationError as error:
            log.warning("release_not_read", arm=arm, error=str(error))

    async def _read(self, state: ReleaseState) -> Release:
        return await asyncio.to_thread(read_release, state, self._link, self._items)


def follow_state(slot: ArmSlot, state: ReleaseState, prepared: Release | None) -> None:
    """Puts in a slot what its state says, as far as it is there or was prepared."""
    # what was on trial is in force: the release is here already
    if slot.trial and slot.trial.release.bundle == state.bundle:
        slot.promote()
    elif prepared and prepared.bundle == state.bundle:
        slot.put(prepared)
    # then the trial: one that ended leaves, one that began is tried out where it was prepared
    canary = state.canary
    if slot.trial and (canary is None or canary.bundle != slot.trial.release.bundle):
        slot.end_trial()
    if canary and prepared and prepared.bundle == canary.bundle and not slot.trial:
        slot.try_out(prepared, canary.terms.share)


def canary_state(state: ReleaseState) -> ReleaseState | None:
    """The canary of a state as a state of its own, for those who read bundles."""
    canary = state.canary
    return ReleaseState(state.arm, canary.bundle, canary.folder, has_cache=canary.has_cache) if canary else None


def read_release(state: ReleaseState, link: EngineLink, items: LiveState | None = None) -> Release:
    """The release of a bundle that the engine process has proven. Raises ConfigurationError with the reason."""
    engine = RemoteEngine(state.arm, state.bundle, link)
    return load_arm_metadata(state.arm, Path(state.folder), state.bundle, engine, state.has_cache, items)


async def follow_engine(link: EngineLink, items: LiveState | None = None) -> Follower:
    """A follower with the releases that the engine process serves now; it is told of every further one.

    Raises ConfigurationError when the engine process does not tell, or a bundle cannot be read.
    """
    try:
        async with asyncio.timeout(START_S):
            states = await link.releases()
    except TimeoutError:
        raise ConfigurationError(
            f"the engine process has not told within {START_S:.0f} s what it serves: its own log lines say why; "
            "start the service again when that is mended"
        ) from None
    releases = {state.arm: read_release(state, link, items) for state in states}
    follower = Follower(link, states, releases, items)
    for state in states:
        if (canary := canary_state(state)) and state.canary:
            follower.arms[state.arm].try_out(read_release(canary, link, items), state.canary.terms.share)
    link.subscribe(follower)
    return follower
