"""The users who may have hidden an item, known in each process, so that the others cost no read of Redis.

Redis keeps one bit a user, as a Bloom filter of two bits in 2^26 (8 MB, from the first user on who hides something; of
a million such users 1 in 1,100 others is taken for one, of ten million 1 in 15). A process copies the bits when it
starts and hears of new ones on a channel; until it has them, and whenever the channel is lost, every user counts as one
who may have hidden something. A bit is never taken back.

The script that keeps feedback sets the bits before it answers, and its own process notes them before it says 202.
Another process hears of them within the time of one message: it looks before and after it computes a list.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import aclosing
from functools import lru_cache, partial
from hashlib import blake2b
from typing import cast

import numpy as np
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from service.stores.redis_causes import cause_of
from service.stores.redis_client import RedisClient, RedisUnavailable

KEY, COMPLETE_KEY = b"hiders", b"hiders:complete"  # the bits; there once the lists of all users are among them
CHANNEL = "recall:hiders"
NUM_BITS = 1 << 26
LISTS = b"hide:"  # the beginning of the keys of users' lists
SCANNED = 1000  # keys a call, where the bits have to be made from the lists
CHUNK = 1 << 17  # bytes of the bits a call: each has as much time as a read of a history
RETRY_S = 1.0
log = structlog.get_logger()

# Part of the script that keeps feedback. Only bits that are new are told; a user of Redis who may not use the channel
# cannot listen to it either, and then reads every user.
NOTE = f"""
local function note_hider(key, first, second)
  local old = redis.call('SETBIT', key, first, 1) + redis.call('SETBIT', key, second, 1)
  if old < 2 then redis.pcall('PUBLISH', '{CHANNEL}', first .. ' ' .. second) end
end
"""


@lru_cache(maxsize=1024)  # a request asks twice
def bits_of(user: str) -> tuple[int, int]:
    """The two bits of a user, as SETBIT counts them."""
    digest = blake2b(user.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest[:4]) % NUM_BITS, int.from_bytes(digest[4:]) % NUM_BITS


class Hiders:
    """A copy of the bits. Belongs to one event loop; `follow` keeps it true."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._bits = bytearray()
        self._is_complete = False

    def may_contain(self, user: str) -> bool:
        """False where it is certain that this user has hidden nothing."""
        return not self._is_complete or all(self._bits[bit >> 3] & 128 >> (bit & 7) for bit in bits_of(user))

    def add(self, user: str) -> None:
        """Notes a user whose hidden item Redis has kept."""
        self._set(bits_of(user))

    async def follow(self) -> None:
        """Keeps the copy true until it is cancelled, and starts anew after each loss of the channel."""
        if self._redis.is_cluster:
            # its client has no channels: every user is read, as in a process that has lost its channel
            return
        is_told = False
        while True:
            try:
                await self._follow_once()
            except RedisUnavailable as error:
                if self._is_complete or not is_told:
                    log.warning("hiders_unknown", cause=error.cause.value, effect="each request reads what is hidden")
                is_told = True
            finally:
                # whatever ends it: without the channel nothing is certain of anybody
                self._is_complete = False
            await asyncio.sleep(RETRY_S)

    async def _follow_once(self) -> None:
        async with aclosing(self._redis.listen(CHANNEL)) as messages:
            async for message in messages:
                if message is None:
                    # nothing that is set from here on is missed; what was set before is read now
                    await self._load()
                else:
                    self._hear(message)

    def _hear(self, message: bytes) -> None:
        try:
            self._set(map(int, message.split()))
        except (ValueError, IndexError) as error:
            # somebody else's message: what of ours went missing nobody knows
            raise RedisUnavailable(cause_of(error)) from error

    async def _load(self) -> None:
        # of a channel that was lost for a moment too
        self._is_complete = False
        [complete] = await self._redis.get_many([COMPLETE_KEY])
        if complete is None:
            await self._make()
        self._bits = self._bits or bytearray(NUM_BITS // 8)
        # into the copy that is there: a bit is never taken back, what this process has noted meanwhile stays, and a
        # channel that is lost often leaves no holes of 8 MB in the heap
        kept = np.frombuffer(self._bits, np.uint8)
        for start in range(0, len(kept), CHUNK):
            chunk = await self._redis.run(partial(self._read, start))
            kept[start : start + len(chunk)] |= np.frombuffer(chunk, np.uint8)
            if len(chunk) < CHUNK:
                break
        self._is_complete = True

    async def _make(self) -> None:
        """Sets the bits of the lists that are there: of a Redis whose lists are older than its bits."""
        cursor = 0
        while True:
            cursor, keys = await self._redis.run(partial(self._scan, cursor))
            users = [key[len(LISTS) :].decode("utf-8", "surrogatepass") for key in keys]
            for reply in await self._redis.pipeline(partial(self._fill, users)):
                if isinstance(reply, RedisUnavailable):
                    raise reply
            if not cursor:
                break
        await self._redis.run(lambda client: cast(Awaitable[object], client.set(COMPLETE_KEY, 1)))

    @staticmethod
    async def _scan(cursor: int, client: Redis) -> tuple[int, list[bytes]]:
        # the client never decodes
        return cast(tuple[int, list[bytes]], await client.scan(cursor, match=LISTS + b"*", count=SCANNED))

    @staticmethod
    def _fill(users: Iterable[str], pipe: Pipeline) -> None:
        for user in users:
            for bit in bits_of(user):
                pipe.setbit(KEY, bit, 1)

    @staticmethod
    async def _read(start: int, client: Redis) -> bytes:
        return cast(bytes, await client.getrange(KEY, start, start + CHUNK - 1))

    def _set(self, bits: Iterable[int]) -> None:
        self._bits = self._bits or bytearray(NUM_BITS // 8)
        for bit in bits:
            self._bits[bit >> 3] |= 128 >> (bit & 7)
