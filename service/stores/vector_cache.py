"""Query vectors kept between requests: in the memory of this process, in Redis, or in both.

Losing the cache makes a request slower and never fails it. service/stores/vector_codec.py says what a value is and when
it is rejected; service/engine/engine.py keeps two requests from computing the same vectors at once.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from service.stores.microbatch import Microbatcher
from service.stores.redis_client import RedisClient, RedisUnavailable
from service.stores.vector_codec import CachedVectors, RejectReason, decode, encode

# of an entry in memory beside its numbers: key, record, two arrays and their place, by what 200,000 of them took
ENTRY_BYTES = 540


class LookupMode(StrEnum):
    """The way to look up a key that `get_local` does not know."""

    NONE = "none"  # not at all: this process's memory is the whole cache
    OVERLAPPED = "overlapped"  # while the request waits for the encoder anyway; the encoder does not wait for it
    AWAITED = "awaited"  # before the encoder: there is no memory in this process, Redis is the whole cache


class VectorCache(Protocol):
    """Keeps query vectors. No method raises: trouble is a miss, and a value may vanish at any time."""

    @property
    def lookup_mode(self) -> LookupMode: ...

    def get_local(self, key: bytes) -> CachedVectors | None:
        """The vectors that the memory of this process holds; never waits."""
        ...

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVectors | None]:
        """An entry for each key, in order; None = compute it. Asks Redis where there is one."""
        ...

    def put_many(self, entries: Sequence[tuple[bytes, CachedVectors]]) -> None:
        """Keeps them soon, without making the caller wait; needs a running event loop."""
        ...

    async def flush(self) -> None:
        """Waits until everything put so far is written or given up."""
        ...


@dataclass(frozen=True, slots=True)
class CacheLimits:
    ttl_s: int = 3600
    max_batch: int = 256  # keys a round trip
    max_pending: int = 4096  # entries waiting to be written; beyond it the oldest is dropped
    write_delay_s: float = (
        0.02  # nobody waits for a write, and a pipeline costs the event loop the same for 1 and for 50
    )


class RedisVectorCache:
    """Vectors in Redis: reads join into one MGET at a time, writes into pipelines that no request waits for."""

    def __init__(self, redis: RedisClient, limits: CacheLimits = CacheLimits()) -> None:
        self._redis, self._limits = redis, limits
        self._reads = Microbatcher(self._load, limits.max_batch)
        self._pending: deque[tuple[bytes, CachedVectors]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()  # write at once
        self.hits = self.misses = self.dropped = 0
        self.refused: Counter[RejectReason] = Counter()

    @property
    def levels(self) -> "dict[str, Level]":
        return {"redis": self}

    @property
    def lookup_mode(self) -> LookupMode:
        return LookupMode.AWAITED

    def get_local(self, key: bytes) -> CachedVectors | None:  # noqa: ARG002
        return None

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVectors | None]:
        return await self._reads.ask(keys) if keys else []

    def put_many(self, entries: Sequence[tuple[bytes, CachedVectors]]) -> None:
        self._pending.extend(entries)
        # the newest are the likeliest to be asked for again
        while len(self._pending) > self._limits.max_pending:
            self._pending.popleft()
            self.dropped += 1
        if self._pending and self._writer is None:
            self._writer = asyncio.create_task(self._write_all())

    async def flush(self) -> None:
        self._hurry.set()
        while self._writer:
            await asyncio.wait([self._writer])
        self._hurry.clear()

    async def _load(self, keys: list[bytes]) -> list[CachedVectors | None]:
        try:
            values = await self._redis.get_many(keys)
        except RedisUnavailable:
            self.misses += len(keys)
            return [None] * len(keys)
        return [self._read(key, value) for key, value in zip(keys, values, strict=True)]

    def _read(self, key: bytes, data: bytes | None) -> CachedVectors | None:
        decoded = decode(key, data) if data is not None else None
        if isinstance(decoded, CachedVectors):
            self.hits += 1
            return decoded
        self.misses += 1
        if decoded is not None:
            self.refused[decoded] += 1
        return None

    async def _write_all(self) -> None:
        try:
            while self._pending:
                if not self._hurry.is_set():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._hurry.wait(), self._limits.write_delay_s)
                size = min(len(self._pending), self._limits.max_batch)
                await self._write([self._pending.popleft() for _ in range(size)])
        finally:
            self._writer = None

    async def _write(self, entries: list[tuple[bytes, CachedVectors]]) -> None:
        pairs = [(key, encode(key, value)) for key, value in entries]
        ttl_s = self._limits.ttl_s
        try:
            replies = await self._redis.pipeline(lambda pipe: [pipe.set(*pair, ex=ttl_s) for pair in pairs])
            self.dropped += sum(isinstance(reply, RedisUnavailable) for reply in replies)
        except RedisUnavailable:
            self.dropped += len(pairs)


class MemoryVectorCache:
    """The twin without Redis: least recently used out first, bounded by entries and by bytes."""

    def __init__(self, max_entries: int = 100_000, max_bytes: int = 256 << 20) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._kept: OrderedDict[bytes, CachedVectors] = OrderedDict()
        self.num_bytes = 0
        self.hits = self.misses = self.dropped = 0
        self.refused: Counter[RejectReason] = Counter()

    @property
    def levels(self) -> "dict[str, Level]":
        return {"memory": self}

    @property
    def lookup_mode(self) -> LookupMode:
        return LookupMode.NONE

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVectors | None]:
        return [self.get_local(key) for key in keys]

    def put_many(self, entries: Sequence[tuple[bytes, CachedVectors]]) -> None:
        for key, value in entries:
            self._forget(key)
            # a copy: a row of a batch would keep the whole batch alive
            self._kept[key] = CachedVectors(value.vectors.copy(), value.prompts.copy())
            self.num_bytes += value.num_bytes + ENTRY_BYTES
        while len(self._kept) > self._max_entries or self.num_bytes > self._max_bytes:
            self._forget(next(iter(self._kept)))
            self.dropped += 1

    async def flush(self) -> None:
        return

    def get_local(self, key: bytes) -> CachedVectors | None:
        cached = self._kept.get(key)
        if cached is None:
            self.misses += 1
            return None
        self._kept.move_to_end(key)
        self.hits += 1
        return cached

    def _forget(self, key: bytes) -> None:
        old = self._kept.pop(key, None)
        self.num_bytes -= old.num_bytes + ENTRY_BYTES if old else 0


class TieredVectorCache:
    """The memory of this process before Redis: repeated keys are answered here, those of other processes by Redis.

    A value in memory is never staler than the one in Redis: the key names everything that can change it.
    """

    def __init__(self, memory: MemoryVectorCache, redis: RedisVectorCache) -> None:
        self.memory, self.redis = memory, redis

    @property
    def levels(self) -> "dict[str, Level]":
        """The caches by the names that metrics give them."""
        return {"memory": self.memory, "redis": self.redis}

    @property
    def lookup_mode(self) -> LookupMode:
        return LookupMode.OVERLAPPED

    def get_local(self, key: bytes) -> CachedVectors | None:
        return self.memory.get_local(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVectors | None]:
        """Asks Redis alone, and keeps its answers in memory; `get_local` asks the memory."""
        fetched = await self.redis.get_many(keys)
        self.memory.put_many([(key, vectors) for key, vectors in zip(keys, fetched, strict=True) if vectors])
        return fetched

    def put_many(self, entries: Sequence[tuple[bytes, CachedVectors]]) -> None:
        self.memory.put_many(entries)
        self.redis.put_many(entries)

    async def flush(self) -> None:
        await self.redis.flush()


Level = MemoryVectorCache | RedisVectorCache
VectorCaches = Level | TieredVectorCache
