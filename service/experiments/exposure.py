"""Exposures: the record of who was shown which arm, kept in a Redis stream or in memory.

They go to a bounded queue and from there, in pipelines, to the stream; no request waits for that. Delivery is at least
once: the id is the same for a unit, an arm and a day, and readers drop what they have seen by it.
"""

import asyncio
import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import islice
from typing import Protocol

import orjson
from redis.asyncio.client import Pipeline

from service.experiments.assignment import Assignment
from service.experiments.events import FIELD, EventReader, MemoryEventLog, RedisEventReader
from service.stores.redis_client import RedisClient, RedisUnavailable

STREAM = "recall:exposures"


class ExposedResult(Protocol):
    """The part of an answer that its exposure keeps (RecallResult of service/pipeline.py)."""

    @property
    def request_id(self) -> str: ...

    @property
    def assignment(self) -> Assignment: ...

    @property
    def served(self) -> str: ...

    @property
    def bundle(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Exposure:
    """One answer given under an experiment: what was assigned (analysed) and what was served (intent to treat)."""

    id: str
    experiment: str
    phase: str
    unit: str
    assigned: str
    served: str
    reason: str
    request_id: str
    bundle: str
    ts_ms: int

    @classmethod
    def of(cls, unit: str | None, result: ExposedResult, ts_ms: int) -> "Exposure | None":
        """The exposure of a unit to the arm that answered it.

        None for an answer that the experiment does not count: without a unit, outside the experiment, pinned or forced.
        """
        assignment = result.assignment
        if not assignment.in_experiment or unit is None:
            return None
        return cls(
            id=exposure_id(assignment, unit, ts_ms),
            experiment=assignment.experiment or "",
            phase=assignment.phase,
            unit=unit,
            assigned=assignment.arm,
            served=result.served,
            reason=assignment.reason,
            request_id=result.request_id,
            bundle=result.bundle,
            ts_ms=ts_ms,
        )

    @classmethod
    def from_json(cls, data: bytes) -> "Exposure":
        """From the field `e` of a stream entry."""
        return cls(**orjson.loads(data))


def exposure_id(assignment: Assignment, unit: str, ts_ms: int) -> str:
    """The same for every answer to this unit, under these rules, on this day (UTC)."""
    day = datetime.fromtimestamp(ts_ms / 1000, UTC).date().isoformat()
    parts = [assignment.experiment, assignment.phase, assignment.config, unit, assignment.variation, day]
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


class ExposureSink(Protocol):
    """The place where exposures go. Belongs to one event loop; `close` it there."""

    written: int
    dropped: int

    @property
    def events(self) -> EventReader[Exposure]:
        """Reads what was written."""
        ...

    def record(self, exposure: Exposure) -> None:
        """Takes an exposure; drops and counts one that cannot be kept. Never waits, never raises."""
        ...

    async def close(self, limit_s: float = 2.0) -> int:
        """Writes what is queued, for `limit_s` at most; returns how many are left, which count as dropped."""
        ...


@dataclass(frozen=True, slots=True)
class ExposureLimits:
    max_queued: int = 20_000
    max_batch: int = 500  # a full batch is written at once
    wait_ms: float = 50  # for a batch to fill
    retry_ms: float = 500  # between attempts while Redis is down
    max_stream: int = 1_000_000  # about as many entries as the stream keeps


class ExposureLog:
    """Exposures in a Redis stream, written in batches while nobody waits; tried again while Redis is down."""

    def __init__(self, redis: RedisClient, limits: ExposureLimits = ExposureLimits(), stream: str = STREAM) -> None:
        self._redis, self._limits, self._stream = redis, limits, stream
        self._queued: deque[bytes] = deque()
        self._full = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._is_closing = False
        self.written = self.dropped = 0

    @property
    def events(self) -> EventReader[Exposure]:
        return RedisEventReader(self._redis, self._stream, Exposure.from_json)

    @property
    def num_queued(self) -> int:
        return len(self._queued)

    def record(self, exposure: Exposure) -> None:
        if len(self._queued) >= self._limits.max_queued or self._is_closing:
            self.dropped += 1
            return
        try:
            self._queued.append(orjson.dumps(exposure))
        except orjson.JSONEncodeError:
            # a lone surrogate in an id: here it costs one exposure, in the writer it would stop all
            self.dropped += 1
            return
        if len(self._queued) >= self._limits.max_batch:
            self._full.set()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())

    async def close(self, limit_s: float = 2.0) -> int:
        self._is_closing = True
        self._full.set()
        if writer := self._writer:
            await asyncio.wait([writer], timeout=limit_s)
            writer.cancel()
            await asyncio.wait([writer])
        left = len(self._queued)
        self.dropped += left
        self._queued.clear()
        return left

    async def _write_all(self) -> None:
        try:
            while self._queued:
                await self._fill()
                if not await self._write():
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

    async def _write(self) -> bool:
        batch = list(islice(self._queued, self._limits.max_batch))

        def fill(pipe: Pipeline) -> None:
            for data in batch:
                pipe.xadd(self._stream, {FIELD: data}, maxlen=self._limits.max_stream, approximate=True)

        try:
            replies = await self._redis.pipeline(fill)
        except RedisUnavailable as error:
            replies = [error]
        if any(isinstance(reply, RedisUnavailable) for reply in replies):
            # still queued: tried again, perhaps written twice, never lost below the bound
            return False
        for _ in batch:
            self._queued.popleft()
        self.written += len(batch)
        return True


class MemoryExposures:
    """The twin without Redis: keeps the newest `max_events`."""

    def __init__(self, max_events: int = 100_000) -> None:
        self._log: MemoryEventLog[Exposure] = MemoryEventLog(Exposure.from_json, max_events)
        self._is_closed = False
        self.written = self.dropped = 0

    @property
    def events(self) -> EventReader[Exposure]:
        return self._log

    def record(self, exposure: Exposure) -> None:
        try:
            data = orjson.dumps(exposure)
        except orjson.JSONEncodeError:
            data = b""
        if self._is_closed or not data:
            self.dropped += 1
            return
        self._log.append(data)
        self.written += 1

    async def close(self, limit_s: float = 2.0) -> int:  # noqa: ARG002
        self._is_closed = True
        return 0
