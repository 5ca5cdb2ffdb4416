"""Watches how full streams are and how long events wait in them, so that somebody hears of it before any is lost."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from service.events.streams import FEEDBACK, Entries
from service.stores.redis_client import RedisClient, RedisUnavailable

WARN_SHARE = 0.8
INTERVAL_S = 5.0
STALE_S = 600.0  # a consumer takes what waits within half a minute, and removes it


@dataclass(frozen=True, slots=True)
class StreamLevel:
    """A stream as it was measured last."""

    name: str  # without the prefix of its key
    num_bytes: int
    max_bytes: int
    oldest_s: float = 0.0  # since its oldest entry was written; 0 = it has none

    @property
    def is_filling(self) -> bool:
        return self.num_bytes > WARN_SHARE * self.max_bytes


class FullnessWatch:
    """Measures the streams of one Redis and its memory. Belongs to one event loop."""

    def __init__(self, redis: RedisClient, streams: Sequence[str], max_stream_bytes: int) -> None:
        self._redis, self._streams, self._max_bytes = redis, streams, max_stream_bytes
        self.levels: list[StreamLevel] = []
        self._is_memory_filling = False

    def warnings(self) -> list[str]:
        """Reasons to look after the consumer, for /ready."""
        filling = [f"stream_{level.name}_filling" for level in self.levels if level.is_filling]
        stale = ["events_not_consumed"] if any(level.oldest_s > STALE_S for level in self.levels) else []
        return [*filling, *stale, *(["redis_events_memory_filling"] if self._is_memory_filling else [])]

    async def run(self) -> None:
        """Measures every INTERVAL_S until it is cancelled."""
        while True:
            await self.measure()
            await asyncio.sleep(INTERVAL_S)

    async def measure(self) -> None:
        """Measures once; what was measured before stands while Redis does not answer."""
        try:
            sizes, oldest, memory = await self._redis.run(self._ask)
        except RedisUnavailable:
            return
        self.levels = [
            StreamLevel(stream.rpartition(":")[2], size or 0, self._max_bytes, age_of(entries))
            for stream, size, entries in zip(self._streams, sizes, oldest, strict=True)
        ]
        bound = int(memory.get("maxmemory", 0))
        # where something is evicted a full memory is a cache at work
        is_bounded = bound > 0 and memory.get("maxmemory_policy") == "noeviction"
        self._is_memory_filling = is_bounded and int(memory["used_memory"]) > WARN_SHARE * bound

    async def _ask(self, client: Redis) -> tuple[list[int | None], list[Entries], dict[str, Any]]:
        """The bytes of each stream, its oldest entry, and the memory of the server."""
        if self._redis.is_cluster:
            return await self._ask_cluster(cast(RedisCluster, client))
        async with client.pipeline(transaction=False) as pipe:
            for stream in self._streams:
                pipe.memory_usage(stream)
                pipe.xrange(stream, count=1)
            pipe.info("memory")
            *replies, memory = await pipe.execute()
        return replies[::2], replies[1::2], memory

    async def _ask_cluster(self, cluster: RedisCluster) -> tuple[list[int | None], list[Entries], dict[str, Any]]:
        """Asks the node of each stream; the memory told is that of the one where feedback lies, with the histories."""
        owners = [cluster.get_node_from_key(stream) for stream in (*self._streams, FEEDBACK)]
        # the library's types allow whatever a command may answer
        sizes: list[Any] = [
            await cluster.execute_command("MEMORY USAGE", stream, target_nodes=owner)
            for stream, owner in zip(self._streams, owners, strict=False)
        ]
        oldest: list[Any] = [await cluster.xrange(stream, count=1) for stream in self._streams]
        memory: Any = await cluster.info("memory", target_nodes=owners[-1])
        return sizes, oldest, memory


def age_of(entries: Entries) -> float:
    """Seconds since the first of these entries was written, by its id; 0 where there is none."""
    return max(0.0, time.time() - int(entries[0][0].partition(b"-")[0]) / 1e3) if entries else 0.0
