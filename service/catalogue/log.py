"""The log of changes: a Redis stream that every process follows, or a list of this process.

A change gets its number and its place in the stream in one atomic step, so that numbers rise along the stream.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import structlog
from redis.asyncio import Redis

from service.catalogue.changes import Change, decode, encode
from service.errors import EventsRefused, EventsUnavailable
from service.stores.redis_causes import PERMANENT
from service.stores.redis_client import RedisClient, RedisUnavailable, Script

STREAM, COUNTER = "recall:catalogue", "recall:catalogue:number"
CLUSTER_COUNTER = "{recall:catalogue}:number"  # in a Cluster: in the slot of the stream
READ_AT_ONCE, READ_WHILE_SERVING, BLOCK_MS = 2000, 200, 200
Numbered = tuple[int, Change | None]  # None: one that this version cannot read
log = structlog.get_logger()

# KEYS: counter, stream. ARGV: change.
SCRIPT = Script.of(
    """
local number = redis.call('INCR', KEYS[1])
redis.call('XADD', KEYS[2], '*', 'n', number, 'c', ARGV[1])
return number
"""
)


class CatalogueLog(Protocol):
    """Keeps changes and hands them out in order; one reader a log."""

    async def append(self, changes: Sequence[Change]) -> list[int]:
        """The numbers of changes, once they are kept. Raises EventsUnavailable when that is not certain of all."""
        ...

    async def newest(self) -> int:
        """The number of the newest change that is kept; 0 = there is none. Raises EventsUnavailable."""
        ...

    async def read(self, wait: bool = True) -> Sequence[Numbered]:
        """The next changes, as soon as there are some; none after a while without. wait: False = only those there are.

        Raises RedisUnavailable.
        """
        ...


class RedisCatalogueLog:
    """The stream of all processes; it is never trimmed here."""

    def __init__(self, writer: RedisClient, reader: RedisClient) -> None:
        """reader: waits for longer than BLOCK_MS, so that it is another client than that of the writes."""
        self._writer, self._reader = writer, reader
        self._last = b"0"

    async def append(self, changes: Sequence[Change]) -> list[int]:
        keys = self._counter, STREAM
        try:
            numbers = await self._writer.run_script(SCRIPT, [(keys, (encode(change),)) for change in changes])
            for number in numbers:
                if isinstance(number, RedisUnavailable):
                    raise number
        except RedisUnavailable as error:
            if error.cause in PERMANENT:
                raise EventsRefused(f"Redis refuses to keep changes ({error.cause})") from error
            raise EventsUnavailable("the change cannot be kept now; send it again") from error
        return [*map(int, numbers)]

    async def newest(self) -> int:
        try:
            return int(await self._writer.run(lambda client: client.get(self._counter)) or 0)
        except RedisUnavailable as error:
            raise EventsUnavailable("the log of changes cannot be read now") from error

    @property
    def _counter(self) -> str:
        return CLUSTER_COUNTER if self._writer.is_cluster else COUNTER

    async def read(self, wait: bool = True) -> Sequence[Numbered]:
        entries = await self._reader.run(lambda client: self._entries(client, wait))
        changes: list[Numbered] = []
        for place, fields in entries:
            self._last = place
            try:
                number = int(fields[b"n"])
                # its number counts though it cannot be read: somebody may wait for it
                changes.append((number, None))
                changes[-1] = number, decode(fields[b"c"])
            except (msgspec.MsgspecError, KeyError, ValueError) as error:
                # an entry of a later version, or of somebody else: the others still count
                log.warning("change_not_read", place=place.decode(), error=str(error)[:200])
        return changes

    async def _entries(self, client: Redis, wait: bool) -> list[tuple[bytes, dict[bytes, bytes]]]:
        # while requests are answered what is read at once must not hold the event loop
        count, block_ms = (READ_WHILE_SERVING, BLOCK_MS) if wait else (READ_AT_ONCE, None)
        # with decoded responses off and RESP2 a list of one stream; the library's types allow more
        reply: Any = await client.xread({STREAM: self._last}, count=count, block=block_ms)
        entries: list[tuple[bytes, dict[bytes, bytes]]] = reply[0][1] if reply else []
        return entries


class MemoryCatalogueLog:
    """The twin without Redis."""

    def __init__(self) -> None:
        self._number, self._new = 0, asyncio.Queue[Numbered]()

    async def append(self, changes: Sequence[Change]) -> list[int]:
        numbers = [*range(self._number + 1, self._number + 1 + len(changes))]
        for numbered in zip(numbers, changes, strict=True):
            self._new.put_nowait(numbered)
        self._number += len(changes)
        return numbers

    async def newest(self) -> int:
        return self._number

    async def read(self, wait: bool = True) -> Sequence[Numbered]:
        changes: list[Numbered] = []
        with suppress(TimeoutError):
            if wait:
                changes.append(await asyncio.wait_for(self._new.get(), BLOCK_MS / 1e3))
        while not self._new.empty():
            changes.append(self._new.get_nowait())
        return changes
