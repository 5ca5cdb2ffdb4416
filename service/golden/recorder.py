"""The histories that a running service keeps: sampled, few, for some days, in a file of the state folder.

A bundle is compared on them with the one in force before it serves (service/reload/comparison.py), and
`recall build --golden-from` makes golden queries of them. Services that share a state folder share the file: each
writes what the others wrote and what it has taken since, under a lock, so that the newest of all are kept.
"""

import asyncio
import fcntl
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

from model.catalogue import Catalogue, ExternalId
from model.recorded import RecordedHistory, read_recorded, write_recorded
from service.engine.blocks import Receiver, RequestBlock, Work
from service.engine.compute import BatchCompute
from service.engine.engine import Engine
from service.engine.graphs import GraphCompute
from service.engine.loading import MakeEngine
from service.engine.messages import EngineLimits
from service.engine.protocols import EngineObserver
from service.stores.vector_cache import VectorCache

MAX_KEPT = 256  # histories; the oldest go first
LOCK_S = 2.0  # that another process is waited for
SAVE_S = 5.0  # between looks whether there is something to write, or to forget
Kept = dict[tuple[ExternalId, ...], date]  # the day of each history, oldest first
log = structlog.get_logger()


def today() -> date:
    return datetime.now(UTC).date()


class HistoryRecorder:
    """The kept histories of one process. Belongs to its event loop; `close` it there."""

    def __init__(self, path: Path, share: float, days: int, day: Callable[[], date] = today) -> None:
        """share: of the users asked for. days: after which a history is forgotten. Reads what is in the file."""
        self._path, self._share, self._days, self._day = path, share, days, day
        self._kept = read_kept(path) or {}
        self._new: Kept = {}  # taken since they were written
        self._is_saved, self._num_holding = True, 0
        self._saving = asyncio.create_task(self._save_often())

    def histories(self) -> Sequence[Sequence[ExternalId]]:
        """The histories that are not too old, oldest first."""
        self._forget()
        return [*self._kept]

    def is_drawn(self) -> bool:
        return not self._num_holding and random.random() < self._share

    @contextmanager
    def held(self) -> Iterator[None]:
        """Draws nothing inside: what the service asks itself is no request."""
        self._num_holding += 1
        try:
            yield
        finally:
            self._num_holding -= 1

    def take(self, items: Sequence[ExternalId]) -> None:
        """Keeps a history; one that is kept already keeps its day, whoever asks with it again."""
        history = tuple(items)
        if not history or history in self._kept:
            return
        self._kept[history] = self._new[history] = self._day()
        self._is_saved = False
        for known in (self._kept, self._new):
            if len(known) > MAX_KEPT:
                del known[next(iter(known))]

    def engine_of(self, catalogue: Catalogue) -> MakeEngine:
        """Makes engines whose requests are sampled."""
        return partial(SampledEngine, self, catalogue)

    def _forget(self) -> None:
        kept = self._young(self._kept)
        if len(kept) < len(self._kept):
            self._is_saved, self._kept, self._new = False, kept, self._young(self._new)

    def _young(self, kept: Kept) -> Kept:
        """The ones that are not too old."""
        first = self._day() - timedelta(days=self._days)
        return {history: day for history, day in kept.items() if day > first}

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            await self._save()

    async def _save(self) -> None:
        self._forget()
        if self._is_saved:
            return
        self._is_saved, new = True, self._new
        self._new = {}
        try:
            kept = await asyncio.to_thread(self._write, dict(self._kept), new)
        except (OSError, asyncio.CancelledError) as error:
            self._is_saved = False  # tried again: what was to be forgotten may still stand in the file
            self._new = new | self._new
            if isinstance(error, asyncio.CancelledError):
                raise
            log.warning("recorded_histories_not_written", error=str(error))
            return
        # what was taken meanwhile is the newest
        self._kept = newest(kept | {history: day for history, day in self._new.items() if history not in kept})

    def _write(self, own: Kept, new: Kept) -> Kept:
        """Adds what is new to what is in the file, and returns all of it. Blocks. Raises OSError."""
        with locked(self._path):
            others = read_kept(self._path)
            # a file that is gone, or none, is begun with what this process knows
            known = own if others is None else others
            kept = newest(self._young(known | {history: day for history, day in new.items() if history not in known}))
            write_recorded(self._path, [RecordedHistory(day, items) for items, day in kept.items()])
        return kept

    async def close(self) -> None:
        """Writes what is not written yet."""
        self._saving.cancel()
        with suppress(asyncio.CancelledError):
            await self._saving
        await self._save()


def newest(kept: Kept) -> Kept:
    return dict([*kept.items()][-MAX_KEPT:])


def read_kept(path: Path) -> Kept | None:
    """The histories in the file; None where there is none that can be read."""
    if not path.exists():
        return None
    try:
        return newest({history.items: history.day for history in read_recorded(path)})
    except ValueError as error:
        log.warning("recorded_histories_lost", error=str(error))
        return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process writes the file, and keeps others from it. Raises OSError, after LOCK_S too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # a file beside it, since the file itself is replaced
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        until = time.monotonic() + LOCK_S
        while not is_locked(lock.fileno()):
            if time.monotonic() > until:
                raise TimeoutError(f"another process has kept {path.name} for {LOCK_S:g} s")
            time.sleep(LOCK_S / 20)
        yield


def is_locked(descriptor: int) -> bool:
    """False where another process has the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # a network's file system may have no locks: then the last who writes wins, in one step
        return True
    return True


class SampledEngine(Engine):
    """An engine that gives the histories of some of its requests to a recorder."""

    def __init__(
        self,
        recorder: HistoryRecorder,
        catalogue: Catalogue,
        compute: BatchCompute | GraphCompute,
        limits: EngineLimits,
        cache: VectorCache | None,
        observer: EngineObserver,
        prepare_thread: Callable[[], None],
    ) -> None:
        """catalogue: in whose rows it is asked. The others are those of `Engine`."""
        super().__init__(compute, limits, cache, observer, prepare_thread)
        self._recorder, self._catalogue = recorder, catalogue

    def submit(self, work: Work, answer: Receiver[object]) -> None:
        super().submit(work, answer)
        for place in range(work.size):
            if self._recorder.is_drawn():
                own = work.part(slice(place, place + 1)).requests()[0] if isinstance(work, RequestBlock) else work
                # what another process says may name any row: the batch will tell, and sampling must not
                rows = [row for row in own.history.items if 0 < row <= len(self._catalogue.items)]
                # the items alone: whose history it is stays out
                self._recorder.take(self._catalogue.items.external(rows))


def forget_recorded(path: Path) -> None:
    """Removes the file of a service that records no longer."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("recorded_histories_not_removed", error=str(error))
