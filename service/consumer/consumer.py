"""Reads streams by a consumer group and writes them to the event log: each event into exactly one file.

A batch is read, written to a file that is on disk before it has its name, and acknowledged; then the stream is trimmed.
Whatever ends this process in between, the batch is delivered again, and entries that are in a file already are only
acknowledged. An entry that is no event goes to the dead letters; so does one that ends the process each time it is
read: batches that were delivered before are read in ever smaller parts, and what dies alone is the cause.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec
import structlog
from redis import Redis, exceptions

from service.consumer.files import EventFolder
from service.consumer.limits import ConsumerLimits
from service.consumer.tables import TABLES, EventTable
from service.events.streams import FIELD, Entries

GROUP = NAME = "recall"
MAX_TRIES = 5
SHRINK = 16  # a batch that was delivered once more is so many times smaller
EARLY_SHARE = 0.25  # of a full file: then it is written before its time
RETRY_S, POLL_S, EXPIRE_S = 1.0, 0.5, 600.0
UNAVAILABLE = (exceptions.RedisError, exceptions.RedisClusterException)
log = structlog.get_logger()
T = TypeVar("T")


class StreamConsumer:
    """One stream and its table. Raises redis' exceptions, and OSError when the disk refuses; then `step` again."""

    def __init__(self, client: Redis, table: EventTable, folder: EventFolder) -> None:
        self._client, self._table, self._folder = client, table, folder
        self._has_pending = True  # of a process that ended, or of a step that failed
        self._batch: Entries = []  # read and not acknowledged
        self._wrote_at = time.monotonic()
        self.num_rows = self.num_dead = 0

    def is_due(self, interval_s: float) -> bool:
        """Says whether enough events wait, or the first of them for long enough."""
        waiting = self._num_waiting()
        if not waiting:
            self._wrote_at = time.monotonic()
        is_late = time.monotonic() - self._wrote_at >= interval_s
        return waiting > 0 and (is_late or waiting >= EARLY_SHARE * self._table.max_rows)

    def step(self) -> int:
        """Writes one batch; returns its number of entries, 0 where nothing is left."""
        self._batch = self._batch or self._read()
        if not self._batch:
            return 0
        num_entries = len(self._batch)
        self._keep()
        self._acknowledge()
        self._batch, self._wrote_at = [], time.monotonic()
        return num_entries

    def open(self) -> None:
        """Makes the group where there is none, and looks for what was delivered and not acknowledged."""
        try:
            self._client.xgroup_create(self._table.stream, GROUP, id="0", mkstream=True)
        except exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._has_pending, self._batch = True, []

    def _num_waiting(self) -> int:
        # what is acknowledged is trimmed: the length is what waits
        return self._client.xlen(self._table.stream)

    def _read(self) -> Entries:
        while self._has_pending:
            tries = self._tries_of_first()
            if tries is None:
                self._has_pending = False
                break
            first, num_tries = tries
            if num_tries >= MAX_TRIES:
                self._bury_alone(first, num_tries)
                continue
            return self._deliver("0", self._size_after(num_tries))
        return self._deliver(">", self._table.max_rows)

    def _size_after(self, num_tries: int) -> int:
        """Entries to read once more: ever fewer, and alone at the last try, so that no other is taken for the cause."""
        is_last = num_tries >= MAX_TRIES - 1
        return 1 if is_last else max(self._table.max_rows // SHRINK ** max(num_tries - 1, 0), 1)

    def _tries_of_first(self) -> tuple[str, int] | None:
        """The oldest entry that is not acknowledged, and how often it was delivered."""
        pending = cast(
            list[dict[str, Any]], self._client.xpending_range(self._table.stream, GROUP, "-", "+", 1, consumername=NAME)
        )
        return (pending[0]["message_id"].decode(), pending[0]["times_delivered"]) if pending else None

    def _deliver(self, after: str, count: int) -> Entries:
        replies = self._client.xreadgroup(GROUP, NAME, {self._table.stream: after}, count=count)
        streams = cast(list[tuple[bytes, Entries]], replies)
        return streams[0][1] if streams else []

    def _bury_alone(self, stream_id: str, num_tries: int) -> None:
        entries = cast(Entries, self._client.xrange(self._table.stream, stream_id, stream_id))
        for _, fields in entries:
            self._bury(stream_id, fields.get(FIELD, b""), f"delivered {num_tries} times, and never written")
        self._batch = [(stream_id.encode(), {})]
        self._acknowledge()
        self._batch = []

    def _keep(self) -> None:
        known = self._folder.written(self._table, [entry_id.decode() for entry_id, _ in self._batch])
        rows = []
        for entry_id, fields in self._batch:
            stream_id = entry_id.decode()
            # without fields: delivered before, and trimmed meanwhile by the stream's own bound
            if stream_id in known or not fields:
                continue
            data = fields.get(FIELD, b"")
            try:
                rows.append(self._table.decode(stream_id, data))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self._bury(stream_id, data, str(error))
        if rows:
            self._folder.write(self._table, rows)
            self.num_rows += len(rows)

    def _bury(self, stream_id: str, data: bytes, reason: str) -> None:
        self._folder.bury(self._table, stream_id, data, reason)
        self.num_dead += 1
        log.warning("event_buried", table=self._table.name, stream_id=stream_id, reason=reason[:200])

    def _acknowledge(self) -> None:
        ids = [entry_id for entry_id, _ in self._batch]
        milliseconds, _, number = ids[-1].decode().partition("-")
        with self._client.pipeline(transaction=True) as pipe:
            pipe.xack(self._table.stream, GROUP, *ids)
            # in order, by one consumer: whatever lies before is acknowledged as well
            pipe.xtrim(self._table.stream, minid=f"{milliseconds}-{int(number) + 1}", approximate=False)
            pipe.execute()


class Consumer:
    """Consumes all tables until it is told to stop. Blocks: a process of its own."""

    def __init__(self, connect: Callable[[], Redis], folder: EventFolder, limits: ConsumerLimits) -> None:
        """connect: a client; may raise redis' exceptions, and is asked again then."""
        self._connect, self._folder, self._limits = connect, folder, limits
        self._client: Redis | None = None
        self._consumers: list[StreamConsumer] = []
        self._is_open = False
        self._expired_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Consumes what is due until `stop` is set, then what is left."""
        while not stop.wait(POLL_S if self._round(self._limits.interval_s) else RETRY_S):
            pass
        self._round(0)

    def run_once(self) -> dict[str, int]:
        """Consumes what is there now; rows by table. Raises what a step raises."""
        self._open()
        for consumer in self._consumers:
            while consumer.step():
                pass
        self._expire()
        return {table.name: each.num_rows for table, each in zip(TABLES, self._consumers, strict=True)}

    def close(self) -> None:
        """Ends the connections."""
        if self._client:
            self._client.close()

    def _round(self, interval_s: float) -> bool:
        """False where Redis or the disk did not answer; the events stay where they are."""
        try:
            self._open()
            for consumer in self._consumers:
                while consumer.is_due(interval_s):
                    if not consumer.step():
                        break
            self._expire()
            self._folder.beat()
        except (*UNAVAILABLE, OSError) as error:
            if isinstance(error, UNAVAILABLE):
                # perhaps it lost the groups; what was read is delivered again
                self._is_open = False
            log.warning("events_not_consumed", error=str(error)[:200])
            return False
        return True

    def _open(self) -> None:
        if self._is_open:
            return
        if self._client is None:
            self._client = self._connect()
            self._consumers = [StreamConsumer(self._client, table, self._folder) for table in TABLES]
        for consumer in self._consumers:
            consumer.open()
        self._is_open = True

    def _expire(self) -> None:
        if time.monotonic() - self._expired_at < EXPIRE_S:
            return
        self._expired_at = time.monotonic()
        if gone := self._folder.expire(self._limits.keep_days, self._limits.keep_bytes):
            log.info("events_expired", files=len(gone), newest=gone[-1].name)
