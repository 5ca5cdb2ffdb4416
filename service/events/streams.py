"""The streams of events, and reading what waits in them, in order, page by page, without taking it out.

Two readers with one behaviour: over a Redis stream, and over a bounded log in the memory of this process. Knows no
kind of event: events are decoded by the function given.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar, cast

from redis.asyncio import Redis

from service.errors import EventsUnavailable
from service.stores.redis_client import RedisClient, RedisUnavailable

Event = TypeVar("Event")
Entries = list[tuple[bytes, dict[bytes, bytes]]]  # of a Redis stream: id and fields
EXPOSURES, SHOWN, FORCED, FEEDBACK = "recall:exposures", "recall:shown", "recall:forced", "recall:feedback"  # streams
INTERLEAVED, SHADOW = "recall:interleaved", "recall:shadow"  # more streams
STREAMS = (EXPOSURES, SHOWN, INTERLEAVED, SHADOW, FORCED, FEEDBACK)
FIELD = b"e"  # the field of a stream entry that holds the event as JSON
PAGE = 1000
START = "0-0"


@dataclass(frozen=True, slots=True)
class StoredEvent(Generic[Event]):
    """An event and its id in the stream: ids grow with time."""

    id: str
    event: Event


@dataclass(frozen=True, slots=True)
class EventPage(Generic[Event]):
    """Events in the order in which they were written, and the id to continue from."""

    events: list[StoredEvent[Event]]
    last_id: str  # of the last entry looked at; the `after` of this page at the end of the stream
    num_damaged: int = 0  # entries left out because they cannot be decoded


class EventReader(Protocol[Event]):
    """Reads one kind of event."""

    async def read(self, after: str = START, limit: int = PAGE) -> EventPage[Event]:
        """Up to `limit` events written after the one with the id `after`; from the oldest kept where that is gone.

        Raises EventsUnavailable when the store cannot be asked.
        """
        ...


def decode_page(entries: Entries, after: str, decode: Callable[[bytes], Event]) -> EventPage[Event]:
    """The page of these entries; those that are damaged are counted."""
    events = []
    for entry_id, fields in entries:
        try:
            events.append(StoredEvent(entry_id.decode(), decode(fields[FIELD])))
        except (KeyError, TypeError, ValueError):
            continue
    last_id = entries[-1][0].decode() if entries else after
    return EventPage(events, last_id, len(entries) - len(events))


class RedisEventReader(Generic[Event]):
    """Reads one Redis stream; a reader of its own for each kind of event."""

    def __init__(self, redis: RedisClient, stream: str, decode: Callable[[bytes], Event]) -> None:
        self._redis, self._stream, self._decode = redis, stream, decode

    async def read(self, after: str = START, limit: int = PAGE) -> EventPage[Event]:
        try:
            entries = await self._redis.run(lambda client: self._fetch(client, after, limit))
        except RedisUnavailable as error:
            raise EventsUnavailable("the events cannot be read now; try again") from error
        return decode_page(entries, after, self._decode)

    async def _fetch(self, client: Redis, after: str, limit: int) -> Entries:
        # XREAD begins after the id, as XRANGE with "(" does, which Redis before 6.2 does not know
        replies = cast(list[tuple[bytes, Entries]], await client.xread({self._stream: after}, count=limit))
        return replies[0][1] if replies else []


class MemoryStream:
    """The twin of a Redis stream in this process: the newest `max_events`, as the same JSON."""

    def __init__(self, max_events: int = 100_000) -> None:
        self._entries: deque[bytes] = deque(maxlen=max_events)
        self._num_written = 0

    def append(self, data: bytes) -> None:
        """Writes an event, encoded as in a stream."""
        self._entries.append(data)
        self._num_written += 1

    def after(self, entry_id: str, limit: int) -> Entries:
        """Up to `limit` entries after the one with that id."""
        # ids count what was ever written: what the bound has dropped is skipped
        num_forgotten = self._num_written - len(self._entries)
        skipped = max(int(entry_id.partition("-")[0]) - num_forgotten, 0)
        chosen = enumerate(islice(self._entries, skipped, skipped + limit), num_forgotten + skipped + 1)
        return [(b"%d-0" % number, {FIELD: data}) for number, data in chosen]


class MemoryEventReader(Generic[Event]):
    """Reads a stream in memory the same way."""

    def __init__(self, stream: MemoryStream, decode: Callable[[bytes], Event]) -> None:
        self._stream, self._decode = stream, decode

    async def read(self, after: str = START, limit: int = PAGE) -> EventPage[Event]:
        return decode_page(self._stream.after(after, limit), after, self._decode)
