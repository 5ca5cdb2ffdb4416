"""The experiments' file while the service runs: watched in every process, checked, and swapped whole.

A file that is refused leaves the one before in force; the reason stands in /ready, metrics and log until a good one is
there. A request keeps the assignment that it began with.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import structlog

from service.errors import ConfigurationError
from service.experiments.assignment import Assigner, Assignment
from service.experiments.conditions import NO_FACTS, RequestFacts

Stamp = tuple[int, int, int]  # inode, size, time of the last change in ns
log = structlog.get_logger()


class LoadResult(StrEnum):
    """The result of reading the file again; the label of its counter."""

    SWAPPED = "swapped"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class LiveAssigner:
    """Assigns by the experiments that are in force now. Belongs to one event loop."""

    def __init__(self, load: Callable[[], Assigner], path: Path | None) -> None:
        """load: reads and checks the file at `path`; without a path what it gives stays in force.

        Raises ConfigurationError for a file that is unusable.
        """
        self._load, self._path = load, path
        # before it is read: a change meanwhile is seen as one
        self._seen = stamp_of(path) if path else None
        self._current = load()
        self.refusal: str | None = None  # the reason why the file that is there now is not in force
        self.results: Counter[LoadResult] = Counter()

    @property
    def config(self) -> str:
        """Digest of the experiments in force."""
        return self._current.config

    @property
    def bucket_units(self) -> tuple[str, ...]:
        """The attributes whose kept buckets an assignment needs."""
        return self._current.bucket_units

    def assign(self, user: str | None, forced: str | None = None, facts: RequestFacts = NO_FACTS) -> Assignment:
        return self._current.assign(user, forced, facts)

    async def watch(self, interval_s: float) -> None:
        """Looks every `interval_s` until it is cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.look()

    async def look(self) -> None:
        """Takes the file if it is another than the one seen last."""
        if self._path is None:
            return
        seen = await asyncio.to_thread(stamp_of, self._path)
        if seen != self._seen:
            self._seen = seen
            await self._take()

    async def _take(self) -> None:
        try:
            coming = await asyncio.to_thread(self._load)
            coming.check_follows(self._current)
        except ConfigurationError as error:
            self.refusal = str(error)
            self._count(LoadResult.REFUSED, self.refusal)
            return
        is_same = coming.config == self._current.config
        self._current, self.refusal = coming, None
        self._count(LoadResult.UNCHANGED if is_same else LoadResult.SWAPPED, coming.config)

    def _count(self, result: LoadResult, what: str) -> None:
        self.results[result] += 1
        log.info("experiments", result=result.value, config_or_reason=what)


def stamp_of(path: Path) -> Stamp | None:
    """The mark by which another file is known; None where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
