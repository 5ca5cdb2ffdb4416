"""The experiments while the service runs: their file or endpoint is watched in every process, checked, swapped whole.

What is refused leaves the one before in force, and so does an endpoint that does not answer; the reason stands in
/ready, metrics and log until a good one is there. A request keeps the assignment that it began with.

Experiments that a guard rail has paused are stopped whatever their source says: a GrowthBook server belongs to others,
and need not even answer.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import structlog

from model.folders.files import write_file
from service.errors import ConfigurationError
from service.experiments.assignment import DEFAULT_FILE, Assigner, Assignment
from service.experiments.conditions import NO_FACTS, RequestFacts
from service.experiments.rules import FEATURE

Paused = frozenset[tuple[str, str]]  # key and phase
log = structlog.get_logger()


class LoadResult(StrEnum):
    """The result of reading the file again; the label of its counter."""

    SWAPPED = "swapped"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class LiveAssigner:
    """Assigns by the experiments that are in force now. Belongs to one event loop."""

    def __init__(
        self,
        load: Callable[[], Assigner],
        mark: Callable[[], object] | None = None,
        keep: Callable[[], None] | None = None,
        pauses: Path | None = None,
    ) -> None:
        """load: reads and checks what is there. mark: another value where that is another, or ConfigurationError where
        nobody tells; None = what is loaded first stays in force. keep: called once what was loaded last is in force.
        pauses: the file of `pause`, obeyed beside them. All block; so does this.

        Raises ConfigurationError for experiments that are unusable.
        """
        self._load, self._mark, self._keep, self._pauses = load, mark, keep, pauses
        self._paused = read_paused(pauses)
        # before it is read: a change meanwhile is seen as one
        self._seen: object = None
        if mark:
            with suppress(ConfigurationError):
                self._seen = mark()
        self._loaded = load()
        self._current = self._loaded.without(self._paused)
        # where nobody told, it is the one that was kept
        if keep and self._seen is not None:
            keep()
        self.refusal: str | None = None  # the reason why what is there now is not in force
        self.results: Counter[LoadResult] = Counter()

    @property
    def config(self) -> str:
        """Digest of the experiments in force."""
        return self._current.digest

    @property
    def paused(self) -> list[str]:
        """Keys of the experiments that guard rails have paused."""
        return sorted({key for key, _ in self._paused})

    @property
    def bucket_units(self) -> tuple[str, ...]:
        """The attributes whose kept buckets an assignment needs."""
        return self._current.bucket_units

    def assign(self, user: str | None, forced: str | None = None, facts: RequestFacts = NO_FACTS) -> Assignment:
        return self._current.assign(user, forced, facts)

    async def watch(self, interval_s: float) -> None:
        """Looks every `interval_s` until it is cancelled; not at all where nothing can change."""
        while self._mark:
            await asyncio.sleep(interval_s)
            await self.look()

    async def look(self) -> None:
        """Takes what is there if it is another than what was seen last."""
        if self._mark is None:
            return
        try:
            # first: a source that does not answer must not keep a failing arm in force
            await self._pause()
            seen = await asyncio.to_thread(self._mark)
        except ConfigurationError as error:
            # told once; whatever is there when it answers again is read again
            self._seen = None
            if self.refusal != str(error):
                self._refuse(error)
            return
        if seen != self._seen:
            self._seen = seen
            await self._take()

    async def _take(self) -> None:
        try:
            coming = await asyncio.to_thread(self._load)
            coming.check_follows(self._loaded)
            if self._keep:
                await asyncio.to_thread(self._keep)
        except ConfigurationError as error:
            self._refuse(error)
            return
        self._loaded, self.refusal = coming, None
        self._put_in_force()

    async def _pause(self) -> None:
        """Stops what was paused since the last look, and starts what no longer is. Raises ConfigurationError."""
        paused = await asyncio.to_thread(read_paused, self._pauses)
        if paused != self._paused:
            self._paused = paused
            log.warning("experiments_paused", experiments=self.paused)
            self._put_in_force()

    def _put_in_force(self) -> None:
        before, self._current = self._current, self._loaded.without(self._paused)
        is_same = before.digest == self._current.digest
        self._count(LoadResult.UNCHANGED if is_same else LoadResult.SWAPPED, self._current.digest)

    def _refuse(self, error: ConfigurationError) -> None:
        self.refusal = str(error)
        self._count(LoadResult.REFUSED, self.refusal)

    def _count(self, result: LoadResult, what: str) -> None:
        self.results[result] += 1
        log.info("experiments", result=result.value, config_or_reason=what)


def load_assigner(path: Path | None, arms: Collection[str], has_buckets: bool = False) -> Assigner:
    """The experiment file given; else recgpt against comirec where both are served; else one arm for everybody.

    Raises ConfigurationError for a file that cannot be used, and where there is no arm.
    """
    if not arms:
        raise ConfigurationError("no arm to serve: give --arm NAME=BUNDLE, or make bundles with `recall demo`")
    if path is not None:
        return Assigner.from_file(path, arms, has_buckets)
    if {"recgpt", "comirec"} <= set(arms):
        return Assigner.from_file(DEFAULT_FILE, arms, has_buckets)
    only = next(iter(arms))
    log.info("no_experiment", arm=only, reason="no experiment file, and not both recgpt and comirec are served")
    return Assigner.from_features({"features": {FEATURE: {"defaultValue": only}}}, arms)


def read_paused(path: Path | None) -> Paused:
    """The experiments that `pause` has written there; none where there is no file. Raises ConfigurationError."""
    try:
        rows = json.loads(path.read_bytes())["paused"] if path else []
        return frozenset((str(row["experiment"]), str(row["phase"])) for row in rows)
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigurationError(f"the paused experiments in {path} cannot be read: remove it to go on") from error


def pause(path: Path, key: str, phase: str) -> None:
    """Adds an experiment's phase to the file, in one step. Raises ConfigurationError for a file that is none."""
    paused = sorted(read_paused(path) | {(key, phase)})
    rows = [{"experiment": own_key, "phase": own_phase} for own_key, own_phase in paused]
    text = json.dumps({"paused": rows}, indent=2, ensure_ascii=False) + "\n"
    write_file(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))
