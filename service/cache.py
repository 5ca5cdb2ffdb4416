"""Query vectors kept between requests: the memory of this process, Redis behind it.

The key is a digest of all that can change the vectors. A value names its bundle and carries a checksum over itself and
its key, so old, torn, foreign or misdirected bytes are a miss, never an answer; nothing is unpickled. Losing the cache
makes a request slower and never fails it. One computation for one key in flight: service/engine.py.
"""

import asyncio
import struct
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis

from model.records import History
from service.coalesce import Coalescer
from service.redis_link import RedisDown, RedisLink

PREFIX = b"qv:"
TAG_BYTES = 8
MAGIC, VERSION = b"RQV\n", 1
HEADER = struct.Struct("<4sB3x8sIII4x")  # magic, version, bundle tag, Q, D, P; then the checksum: 40 bytes, aligned
CHECKSUM_BYTES = 8


@dataclass(frozen=True, slots=True)
class CachedVectors:
    """One user's row of QueryVectors; the arrays are read-only when they come from a cache."""

    vectors: NDArray[np.float32]  # (Q, D)
    prompts: NDArray[np.int64]  # (P,)

    @property
    def num_bytes(self) -> int:
        return self.vectors.nbytes + self.prompts.nbytes


class Refusal(StrEnum):
    """Why a stored value was not used; the label of the refusal counter."""

    SIZE = "size"
    MAGIC = "magic"
    VERSION = "version"
    BUNDLE = "bundle"
    CHECKSUM = "checksum"
    NOT_FINITE = "not_finite"


def cache_key(bundle_digest: str, plan_digest: str, history: History) -> bytes:
    """Names the vectors of one history under one bundle and plan: prefix, 8 bytes of the bundle, 16 of the rest."""
    tag = blake2b(bundle_digest.encode(), digest_size=TAG_BYTES).digest()
    rest = blake2b(tag, digest_size=16)
    # fixed widths: no two inputs run together
    rest.update(blake2b(plan_digest.encode(), digest_size=16).digest())
    rest.update(array("q", (history.user, *history.items)).tobytes())
    return PREFIX + tag + rest.digest()


def _tag_of(key: bytes) -> bytes:
    return key[len(PREFIX) : len(PREFIX) + TAG_BYTES]


def _checksum(key: bytes, header: bytes, payload: bytes) -> bytes:
    digest = blake2b(key, digest_size=CHECKSUM_BYTES)
    digest.update(header)
    digest.update(payload)
    return digest.digest()


def encode(key: bytes, value: CachedVectors) -> bytes:
    """The bytes stored under `key`."""
    (num_queries, width), num_prompts = value.vectors.shape, len(value.prompts)
    header = HEADER.pack(MAGIC, VERSION, _tag_of(key), num_queries, width, num_prompts)
    payload = value.prompts.astype("<i8").tobytes() + value.vectors.astype("<f4").tobytes()
    return header + _checksum(key, header, payload) + payload


def decode(key: bytes, stored: bytes) -> CachedVectors | Refusal:
    """What `encode` was given, or why these bytes are not to be used."""
    start = HEADER.size + CHECKSUM_BYTES
    if len(stored) < start:
        return Refusal.SIZE
    header, checksum, payload = stored[: HEADER.size], stored[HEADER.size : start], stored[start:]
    magic, version, tag, num_queries, width, num_prompts = HEADER.unpack(header)
    # the checksum comes after the lengths, so that its cost is spent on plausible values only
    checks = [
        (magic == MAGIC, Refusal.MAGIC),
        (version == VERSION, Refusal.VERSION),
        (tag == _tag_of(key), Refusal.BUNDLE),
        (num_queries * width > 0 and len(payload) == 8 * num_prompts + 4 * num_queries * width, Refusal.SIZE),
        (checksum == _checksum(key, header, payload), Refusal.CHECKSUM),
    ]
    for passed, refusal in checks:
        if not passed:
            return refusal
    # views of bytes, hence read-only
    prompts = np.frombuffer(payload, "<i8", num_prompts)
    vectors = np.frombuffer(payload, "<f4", offset=8 * num_prompts).reshape(num_queries, width)
    return CachedVectors(vectors, prompts) if np.isfinite(vectors).all() else Refusal.NOT_FINITE


class VectorCache(Protocol):
    """Where query vectors are kept. Neither method raises: trouble is a miss, and a value may vanish at any time."""

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


class RedisVectorCache:
    """Reads join into one MGET at a time, writes into pipelines behind the request path."""

    def __init__(self, link: RedisLink, limits: CacheLimits = CacheLimits()) -> None:
        self._link, self._limits = link, limits
        self._reads = Coalescer(self._load, limits.max_batch)
        self._pending: deque[tuple[bytes, CachedVectors]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self.hits = self.misses = self.dropped = 0
        self.refused: Counter[Refusal] = Counter()

    @property
    def levels(self) -> "dict[str, Level]":
        return {"redis": self}

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
        while self._writer:
            await asyncio.wait([self._writer])

    async def _load(self, keys: list[bytes]) -> list[CachedVectors | None]:
        try:
            stored = await self._link.run(lambda client: self._fetch(client, keys))
        except RedisDown:
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
        return cast(list[bytes | None], await client.mget(keys))  # the link never decodes

    async def _write_all(self) -> None:
        try:
            while self._pending:
                size = min(len(self._pending), self._limits.max_batch)
                await self._write([self._pending.popleft() for _ in range(size)])
        finally:
            self._writer = None

    async def _write(self, entries: list[tuple[bytes, CachedVectors]]) -> None:
        pairs = [(key, encode(key, value)) for key, value in entries]
        try:
            await self._link.run(lambda client: self._send(client, pairs))
        except RedisDown:
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
        self.refused: Counter[Refusal] = Counter()

    @property
    def levels(self) -> "dict[str, Level]":
        return {"memory": self}

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVectors | None]:
        return [self._get(key) for key in keys]

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

    def _get(self, key: bytes) -> CachedVectors | None:
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

    def __init__(self, near: MemoryVectorCache, far: RedisVectorCache) -> None:
        self.near, self.far = near, far

    @property
    def levels(self) -> "dict[str, Level]":
        """By the name that metrics give them."""
        return {"memory": self.near, "redis": self.far}

    async def get_many(self, keys: Sequence[bytes]) -> list[CachedVectors | None]:
        found = await self.near.get_many(keys)
        missing = [key for key, vectors in zip(keys, found, strict=True) if vectors is None]
        if not missing:
            return found
        answers = await self.far.get_many(missing)
        self.near.put_many([(key, vectors) for key, vectors in zip(missing, answers, strict=True) if vectors])
        late = iter(answers)
        return [vectors if vectors is not None else next(late) for vectors in found]

    def put_many(self, entries: Sequence[tuple[bytes, CachedVectors]]) -> None:
        self.near.put_many(entries)
        self.far.put_many(entries)

    async def flush(self) -> None:
        await self.far.flush()


Level = MemoryVectorCache | RedisVectorCache
VectorCaches = Level | TieredVectorCache
