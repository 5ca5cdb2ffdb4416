"""Events on their way to Redis streams: a bounded queue, pipelines that no request waits for, a spool on disk.

Delivery is at least once. While Redis is away events go to the spool (service/events/spool.py), and from there to
their streams when it is back; when the service stops, what Redis did not take is on disk. Streams are bounded in bytes:
beyond it the oldest entries go, which /ready tells before (service/events/fullness.py).
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import structlog
from redis.asyncio.client import Pipeline

from service.events.spool import Entry, Spool
from service.events.streams import (
    FIELD,
    Event,
    EventReader,
    MemoryEventReader,
    MemoryStream,
    RedisEventReader,
)
from service.stores.redis_client import RedisClient, RedisUnavailable

ENTRY_BYTES = 24  # that Redis needs for an entry beside its data
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """The bounds of an outbox."""

    max_queued_bytes: int = 16 << 20
    max_batch: int = 500  # a full batch is written at once
    wait_ms: float = 50  # for a batch to fill
    retry_ms: float = 500  # between attempts while Redis is down
    max_stream_bytes: int = 32 << 20  # of each stream; about


class Outbox:
    """Belongs to one event loop; `close` it there."""

    def __init__(self, redis: RedisClient, spool: Spool | None = None, limits: OutboxLimits = OutboxLimits()) -> None:
        """spool: it is closed with the outbox; without one, what Redis does not take is dropped when the queue is full.

        Begins to write what the spool holds.
        """
        self._redis, self._spool, self._limits = redis, spool, limits
        self._queued: deque[Entry] = deque()
        self._queued_bytes = 0
        self._replayed: Sequence[Entry] = ()  # the oldest of the spool that Redis has not taken yet
        self._replayed_bytes = 0  # to forget when it has
        self._mean_bytes: dict[str, float] = {}  # of an event, by stream
        self._full = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._is_closing = False
        self.written = self.dropped = self.spooled = 0
        if self.spool_bytes:
            self._wake()

    @property
    def num_queued(self) -> int:
        return len(self._queued)

    @property
    def spool_bytes(self) -> int:
        """Bytes on disk that Redis has not taken yet."""
        return self._spool.num_bytes if self._spool else 0

    def reader(self, stream: str, decode: Callable[[bytes], Event]) -> EventReader[Event]:
        """Reads what was written to a stream."""
        return RedisEventReader(self._redis, stream, decode)

    def warnings(self) -> list[str]:
        """Reasons to look after it, for /ready."""
        return ["events_spooled"] if self.spool_bytes else []

    def put(self, stream: str, data: bytes) -> bool:
        if self._is_closing or self._queued_bytes + len(data) > self._limits.max_queued_bytes:
            self.dropped += 1
            return False
        self._queued.append((stream, data))
        self._queued_bytes += len(data)
        if len(self._queued) >= self._limits.max_batch:
            self._full.set()
        self._wake()
        return True

    async def close(self, limit_s: float = 2.0) -> int:
        """Writes what is queued, for `limit_s` at most, and the rest to disk; returns how many events are lost."""
        self._is_closing = True
        self._full.set()
        if writer := self._writer:
            await asyncio.wait([writer], timeout=limit_s)
            writer.cancel()
            await asyncio.wait([writer])
        lost = len(self._queued)
        if self._spool:
            lost -= await self._keep(list(self._queued))
            await asyncio.to_thread(self._spool.close)
        self.dropped += lost
        self._queued.clear()
        if lost or self.spooled:
            log.warning("events_left", lost=lost, spooled=self.spooled, written=self.written)
        return lost

    def _wake(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._queued or self.spool_bytes:
                await self._fill()
                if not await self._write_batch():
                    # the rest goes to disk, in close()
                    if self._is_closing and self._spool:
                        return
                    await asyncio.sleep(self._limits.retry_ms / 1000)
        finally:
            self._writer = None

    async def _fill(self) -> None:
        if len(self._queued) >= self._limits.max_batch or self._is_closing:
            return
        self._full.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.wait_ms / 1000):
                # a full batch ends the wait early, and so does close()
                await self._full.wait()

    async def _write_batch(self) -> bool:
        """Writes the oldest that are queued, else the oldest of the spool; False when Redis takes none of them."""
        batch = list(islice(self._queued, self._limits.max_batch))
        if not batch:
            return await self._replay()
        refused = await self._send(batch)
        # without a spool they stay queued: tried again, perhaps written twice
        waiting = refused[await self._keep(refused) :]
        for stream, data in batch:
            self._queued.popleft()
            self._note(stream, len(data))
        # back where they were, the oldest first
        self._queued.extendleft(reversed(waiting))
        self._queued_bytes -= total_bytes(batch) - total_bytes(waiting)
        # what the spool has taken is counted when Redis has it
        self.written += len(batch) - len(refused)
        return len(refused) < len(batch)

    async def _replay(self) -> bool:
        if self._spool is None:
            return True
        if not self._replayed:
            self._replayed, self._replayed_bytes = await asyncio.to_thread(self._spool.read)
        refused = await self._send(self._replayed)
        self.written += len(self._replayed) - len(refused)
        self._replayed = refused
        if refused:
            return False
        await asyncio.to_thread(self._spool.forget, self._replayed_bytes)
        return True

    async def _keep(self, batch: Sequence[Entry]) -> int:
        """The number of events, from the first on, that the spool has taken."""
        if self._spool is None or not batch:
            return 0
        num_kept = await asyncio.to_thread(self._spool.append, batch)
        self.spooled += num_kept
        return num_kept

    async def _send(self, batch: Sequence[Entry]) -> Sequence[Entry]:
        """The events that Redis did not take: all of them, or those of a stream that it refuses."""
        if not batch:
            return batch

        def fill(pipe: Pipeline) -> None:
            for stream, data in batch:
                pipe.xadd(stream, {FIELD: data}, maxlen=self._max_entries(stream, len(data)), approximate=True)

        try:
            replies = await self._redis.pipeline(fill)
        except RedisUnavailable:
            return batch
        return [entry for entry, reply in zip(batch, replies, strict=True) if isinstance(reply, RedisUnavailable)]

    def _note(self, stream: str, num_bytes: int) -> None:
        # a slow mean: a stream is bounded in entries, and its bound should not jump with one large event
        self._mean_bytes[stream] = 0.99 * self._mean_bytes.get(stream, num_bytes) + 0.01 * num_bytes

    def _max_entries(self, stream: str, num_bytes: int) -> int:
        return int(self._limits.max_stream_bytes / (self._mean_bytes.get(stream, num_bytes) + ENTRY_BYTES)) + 1


def total_bytes(batch: Sequence[Entry]) -> int:
    """The bytes of these events, as a queue counts them."""
    return sum(len(data) for _, data in batch)


class MemoryOutbox:
    """The twin without Redis: keeps the newest events of each stream in this process."""

    def __init__(self, max_events: int = 100_000) -> None:
        self._streams: defaultdict[str, MemoryStream] = defaultdict(lambda: MemoryStream(max_events))
        self._is_closed = False
        self.written = self.dropped = self.spooled = self.spool_bytes = 0

    def reader(self, stream: str, decode: Callable[[bytes], Event]) -> EventReader[Event]:
        """Reads what was written to a stream."""
        return MemoryEventReader(self._streams[stream], decode)

    def warnings(self) -> list[str]:
        return []

    def put(self, stream: str, data: bytes) -> bool:
        if self._is_closed:
            self.dropped += 1
            return False
        self._streams[stream].append(data)
        self.written += 1
        return True

    async def close(self, limit_s: float = 2.0) -> int:  # noqa: ARG002
        self._is_closed = True
        return 0
