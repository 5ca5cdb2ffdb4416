"""The memory of what each user was shown: the newest items, MARK_BYTES bytes each, under a number that changes raise.

A list is chosen from one state of the memory and added to that state alone: where another list of the same user came
between, the memory answers with its new state, and the list is chosen anew. So no two lists share an item, however many
are made at once. An item whose mark is that of another one counts as shown with it: one in a million, times MAX_SHOWN.
"""

import struct
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha1
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from redis.asyncio.client import Pipeline

from model.ids import MARK_BYTES
from service.stores.microbatch import Microbatcher
from service.stores.redis_client import RedisClient, RedisUnavailable

MAX_SHOWN = 420  # newest items of a user: 1,264 bytes, and below 1.5 kB with what Redis needs for a key
NUMBER = struct.Struct(">I")
NO_NUMBER = NUMBER.pack(0)

# KEYS: the user's memory. ARGV: the number it is expected to have, its next one, marks to add, bytes of marks to keep,
# seconds until it is forgotten or '0'. Answers 1, or the memory where its number is another.
SCRIPT = """
local kept = redis.call('GET', KEYS[1]) or ''
local number = kept == '' and '\\0\\0\\0\\0' or string.sub(kept, 1, 4)
if number ~= ARGV[1] then return kept end
kept = ARGV[2] .. string.sub(string.sub(kept, 5) .. ARGV[3], -tonumber(ARGV[4]))
if ARGV[5] == '0' then redis.call('SET', KEYS[1], kept) else redis.call('SET', KEYS[1], kept, 'EX', ARGV[5]) end
return 1
"""
SCRIPT_SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


def shown_key(user: str) -> bytes:
    return b"shown:" + user.encode("utf-8", "surrogatepass")


class Shown(NamedTuple):
    """A state of the memory of one user."""

    number: bytes = NO_NUMBER
    marks: bytes = b""  # oldest first

    @classmethod
    def of(cls, kept: bytes | None) -> "Shown":
        """From what is stored."""
        return cls(kept[: NUMBER.size], kept[NUMBER.size :]) if kept else cls()

    @property
    def items(self) -> NDArray[np.uint32]:
        """(K,) the marks as numbers (model/ids.py)."""
        whole = len(self.marks) // MARK_BYTES
        parts = np.frombuffer(self.marks, np.uint8, whole * MARK_BYTES).reshape(whole, MARK_BYTES).astype(np.uint32)
        items: NDArray[np.uint32] = (parts << np.array([16, 8, 0], dtype=np.uint32)).sum(1, dtype=np.uint32)
        return items

    def after(self, marks: bytes) -> "Shown":
        """The next state, with these marks."""
        [number] = NUMBER.unpack(self.number)
        kept = (self.marks + marks)[-MAX_SHOWN * MARK_BYTES :]
        return Shown(NUMBER.pack(number % (2**32 - 1) + 1), kept)


def packed(marks: NDArray[np.uint32]) -> bytes:
    """Marks as they are stored: the first of a list last, so that the best items are kept longest."""
    parts = marks[::-1].astype(">u4").view(np.uint8).reshape(-1, 4)
    return parts[:, 4 - MARK_BYTES :].tobytes()


class Added(NamedTuple):
    """The end of an addition."""

    is_done: bool
    state: Shown  # that there is now


class ShownStore(Protocol):
    """The memories of all users."""

    async def recall(self, user: str) -> Shown | None:
        """The state of a user's memory, empty where there is none; None where the store is down."""
        ...

    async def add(self, user: str, before: Shown, marks: bytes) -> "Added | None":
        """Adds marks to the state `before`, or nothing where another one has taken its place meanwhile.

        None where the store is down: then the marks may have been added or not.
        """
        ...


class RedisShown:
    """One string a user. Concurrent calls join into one pipeline at a time."""

    def __init__(self, redis: RedisClient, keep_s: int, max_batch: int = 256) -> None:
        """keep_s: seconds after its last change that a memory is forgotten; 0 = never."""
        self._redis, self._keep_s = redis, keep_s
        self._reads, self._writes = Microbatcher(self._load, max_batch), Microbatcher(self._write, max_batch)

    async def recall(self, user: str) -> Shown | None:
        [kept] = await self._reads.ask([user])
        return None if isinstance(kept, RedisUnavailable) else Shown.of(kept)

    async def add(self, user: str, before: Shown, marks: bytes) -> Added | None:
        after = before.after(marks)
        [reply] = await self._writes.ask([(user, before.number, after.number, marks)])
        if isinstance(reply, RedisUnavailable):
            return None
        return Added(False, Shown.of(reply)) if isinstance(reply, bytes) else Added(True, after)

    async def _load(self, users: list[str]) -> Sequence[bytes | RedisUnavailable | None]:
        try:
            return await self._redis.pipeline(lambda pipe: [pipe.get(shown_key(user)) for user in users])
        except RedisUnavailable as error:
            return [error] * len(users)

    async def _write(self, wanted: list[tuple[str, bytes, bytes, bytes]]) -> Sequence[int | bytes | RedisUnavailable]:
        def fill(pipe: Pipeline) -> None:
            pipe.script_load(SCRIPT)  # with every batch: a restarted Redis has forgotten it
            for user, before, after, marks in wanted:
                limits = MAX_SHOWN * MARK_BYTES, self._keep_s
                pipe.evalsha(SCRIPT_SHA, 1, shown_key(user), before, after, marks, *limits)

        try:
            return (await self._redis.pipeline(fill))[1:]
        except RedisUnavailable as error:
            return [error] * len(wanted)


class MemoryShown:
    """The twin without Redis; the longest silent users go first when there are too many."""

    def __init__(self, max_users: int = 100_000) -> None:
        self._max_users = max_users
        self._kept: OrderedDict[str, Shown] = OrderedDict()

    async def recall(self, user: str) -> Shown:
        return self._kept.get(user, Shown())

    async def add(self, user: str, before: Shown, marks: bytes) -> Added:
        kept = self._kept.get(user, Shown())
        if kept.number != before.number:
            return Added(False, kept)
        self._kept[user] = after = kept.after(marks)
        self._kept.move_to_end(user)
        if len(self._kept) > self._max_users:
            self._kept.popitem(last=False)
        return Added(True, after)
