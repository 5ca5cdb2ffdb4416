"""The histories that a running service keeps: sampled, few, for some days, in a file of the state folder.

A bundle is compared on them with the one in force before it serves (service/reload/comparison.py), and
`recall build --golden-from` makes golden queries of them.
"""

import asyncio
import random
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
SAVE_S = 5.0  # between looks whether there is something to write, or to forget
log = structlog.get_logger()


def today() -> date:
    return datetime.now(UTC).date()


class HistoryRecorder:
    """The kept histories of one process. Belongs to its event loop; `close` it there."""

    def __init__(self, path: Path, share: float, days: int, day: Callable[[], date] = today) -> None:
        """share: of the users asked for. days: after which a history is forgotten. Reads what is in the file."""
        self._path, self._share, self._days, self._day = path, share, days, day
        self._kept: dict[tuple[ExternalId, ...], date] = {}  # oldest first
        self._is_saved, self._num_holding = True, 0
        if path.exists():
            try:
                self._kept = {history.items: history.day for history in read_recorded(path)[-MAX_KEPT:]}
            except ValueError as error:
                log.warning("recorded_histories_lost", error=str(error))
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
        self._kept[history] = self._day()
        self._is_saved = False
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def engine_of(self, catalogue: Catalogue) -> MakeEngine:
        """Makes engines whose requests are sampled."""
        return partial(SampledEngine, self, catalogue)

    def _forget(self) -> None:
        first = self._day() - timedelta(days=self._days)
        if old := [history for history, day in self._kept.items() if day <= first]:
            self._is_saved = False
            for history in old:
                del self._kept[history]

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            await self._save()

    async def _save(self) -> None:
        self._forget()
        if self._is_saved:
            return
        self._is_saved = True
        rows = [RecordedHistory(day, items) for items, day in self._kept.items()]
        try:
            await asyncio.to_thread(write_recorded, self._path, rows)
        except OSError as error:
            self._is_saved = False  # tried again: what was to be forgotten may still stand in the file
            log.warning("recorded_histories_not_written", error=str(error))

    async def close(self) -> None:
        """Writes what is not written yet."""
        self._saving.cancel()
        with suppress(asyncio.CancelledError):
            await self._saving
        await self._save()


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
