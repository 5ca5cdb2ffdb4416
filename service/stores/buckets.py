"""Sticky buckets: of each unit of an experiment the variation that it got first, one hash a unit.

Read with a request that needs them, renewed by that, and written when an answer made a new one. Knows no rules: names
in, names out.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from redis.asyncio.client import Pipeline

from service.stores.microbatch import Microbatcher
from service.stores.redis_client import RedisClient, RedisUnavailable

Bucket = tuple[str, str]  # EXPERIMENT__VERSION, key of the variation


def bucket_key(unit: str) -> bytes:
    return b"sticky:" + unit.encode("utf-8", "surrogatepass")


class BucketStore(Protocol):
    """The buckets of all units."""

    async def read(self, units: Sequence[str]) -> list[Mapping[str, str] | None]:
        """The buckets of each unit, empty where it has none; None where the store does not say."""
        ...

    def keep(self, unit: str, bucket: Bucket) -> None:
        """Adds a bucket of a unit. Never waits, never raises: what is lost is made again by the next request."""
        ...


class RedisBuckets:
    """One hash a unit. Concurrent calls join into one pipeline at a time. Belongs to one event loop; `close` it there.

    Reads and writes have a client each, so that slow writes do not open the breaker of reads.
    """

    def __init__(self, reads: RedisClient, writes: RedisClient, keep_s: int, max_batch: int = 256) -> None:
        """keep_s: seconds after its last request that a unit is forgotten."""
        self._read_client, self._write_client, self._keep_s = reads, writes, keep_s
        self._reads, self._writes = Microbatcher(self._load, max_batch), Microbatcher(self._write, max_batch)
        self._keeping: set[asyncio.Task[list[None]]] = set()  # held, or the event loop may forget them
        self.num_failed = 0

    async def read(self, units: Sequence[str]) -> list[Mapping[str, str] | None]:
        return await self._reads.ask(units)

    def keep(self, unit: str, bucket: Bucket) -> None:
        task = asyncio.create_task(self._writes.ask([(unit, bucket)]))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def close(self) -> None:
        """Waits for what is being written, which is bounded by the client's patience."""
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def _load(self, units: list[str]) -> list[Mapping[str, str] | None]:
        def fill(pipe: Pipeline) -> None:
            for unit in units:
                pipe.hgetall(bucket_key(unit))
            for unit in units:
                pipe.expire(bucket_key(unit), self._keep_s)

        try:
            replies = (await self._read_client.pipeline(fill))[: len(units)]
        except RedisUnavailable:
            replies = [None] * len(units)
        self.num_failed += sum(not isinstance(reply, dict) for reply in replies)
        return [_as_text(reply) if isinstance(reply, dict) else None for reply in replies]

    async def _write(self, made: list[tuple[str, Bucket]]) -> list[None]:
        def fill(pipe: Pipeline) -> None:
            for unit, (name, variation) in made:
                pipe.hset(bucket_key(unit), name, variation)
                pipe.expire(bucket_key(unit), self._keep_s)

        try:
            await self._write_client.pipeline(fill)
        except RedisUnavailable:
            # counted by the client; the hash gives the same variation again until the rules change
            self.num_failed += len(made)
        return [None] * len(made)


def _as_text(buckets: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(errors="replace"): key.decode(errors="replace") for name, key in buckets.items()}


class MemoryBuckets:
    """The twin without Redis; the longest silent units go first when there are too many."""

    def __init__(self, max_units: int = 100_000) -> None:
        self._max_units = max_units
        self._kept: dict[str, dict[str, str]] = {}

    async def read(self, units: Sequence[str]) -> list[Mapping[str, str] | None]:
        return [dict(self._kept.get(unit, {})) for unit in units]

    def keep(self, unit: str, bucket: Bucket) -> None:
        # taken out and put back at the end: the first key is then the unit that was silent longest
        buckets = self._kept.pop(unit, {})
        self._kept[unit] = buckets | dict([bucket])
        if len(self._kept) > self._max_units:
            del self._kept[next(iter(self._kept))]

    async def close(self) -> None:
        """Nothing is left to write."""
