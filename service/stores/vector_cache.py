"""Query vectors kept between requests: the memory of this process, Redis behind it.

What a value is and when it is refused: service/stores/vector_codec.py. Losing the cache makes a request slower and
never fails it. One computation for one key in flight: service/engine/engine.py.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, cast

from redis.asyncio import Redis

from service.stores.microbatch import Microbatcher
from service.stores.redis_client import RedisClient, RedisUnavailable
from service.stores.vector_codec import CachedVectors, RejectReason, decode, encode


class LookupMode(StrEnum):
    """What asking `get_many` means for a request whose key is not near."""

    NONE = "none"  # there is nothing further away
    OVERLAPPED = "overlapped"  # asked while the request waits for the encoder anyway, never waited for
    AWAITED = "awaited"  # nothing is near: without waiting nothing would ever be found


class VectorCache(Protocol):
    """Where query vectors are kept. No method raises: trouble is a miss, and a value may vanish at any time."""

    @property
    def lookup_mode(self) -> LookupMode: ...

    def get_local(self, key: bytes) -> CachedVectors | None:
        """What is known in this process, at once."""
        ...

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVectors | None]:
        """One entry a key, in order; None = compute it."""
        ...

    def put_many(self, entries: Sequence[tuple[bytes, CachedVectors]]) -> None:
        """Keep them soon, behind the caller's back; needs a running event loop."""
        ...

    async def flush(self) -> None:
        """Wait until everything put so far is written or given up."""
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
    """Reads join into one MGET at a time, writes into pipelines behind the request path."""

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
            stored = await self._redis.run(lambda client: self._fetch(client, keys))
        except RedisUnavailable:
            self.misses += len(keys)
            return [None] * len(keys)
        return [self._read(key, value) for key, value in zip(keys, stored, strict=True)]

    def _read(self, key: bytes, stored: bytes | None) -> CachedVectors | None:
        found = decode(key, stored) if stored is not None else None
        if isinstance(found, CachedVectors):
            self.hits += 1
            return found
        self.misses += 1
        if found is not None:
            self.refused[found] += 1
        return None

    async def _fetch(self, client: Redis, keys: list[bytes]) -> list[bytes | None]:
        return cast(list[bytes | None], await client.mget(keys))  # the client never decodes

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
        try:
            await self._redis.run(lambda client: self._send(client, pairs))
        except RedisUnavailable:
            self.dropped += len(pairs)

    async def _send(self, client: Redis, pairs: list[tuple[bytes, bytes]]) -> None:
        async with client.pipeline(transaction=False) as pipe:
            for key, value in pairs:
                pipe.set(key, value, ex=self._limits.ttl_s)
            await pipe.execute()


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
            self.num_bytes += value.num_bytes
        while len(self._kept) > self._max_entries or self.num_bytes > self._max_bytes:
            self._forget(next(iter(self._kept)))
            self.dropped += 1

    async def flush(self) -> None:
        return

    def get_local(self, key: bytes) -> CachedVectors | None:
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self._kept.move_to_end(key)
        self.hits += 1
        return found

    def _forget(self, key: bytes) -> None:
        old = self._kept.pop(key, None)
        self.num_bytes -= old.num_bytes if old else 0


class TieredVectorCache:
    """The memory of this process before Redis: what is asked again here costs no trip, what another process knows one.

    A key of the memory is never older than its value in Redis, since both are named by all that can change them.
    """

    def __init__(self, memory: MemoryVectorCache, far: RedisVectorCache) -> None:
        self.memory, self.far = memory, far

    @property
    def levels(self) -> "dict[str, Level]":
        """By the name that metrics give them."""
        return {"memory": self.memory, "redis": self.far}

    @property
    def lookup_mode(self) -> LookupMode:
        return LookupMode.OVERLAPPED

    def get_local(self, key: bytes) -> CachedVectors | None:
        return self.memory.get_local(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVectors | None]:
        """Asks Redis alone: what is near is asked for by `near`."""
        found = await self.far.get_many(keys)
        self.memory.put_many([(key, vectors) for key, vectors in zip(keys, found, strict=True) if vectors])
        return found

    def put_many(self, entries: Sequence[tuple[bytes, CachedVectors]]) -> None:
        self.memory.put_many(entries)
        self.far.put_many(entries)

    async def flush(self) -> None:
        await self.far.flush()


Level = MemoryVectorCache | RedisVectorCache
VectorCaches = Level | TieredVectorCache
