"""Watches how full the streams are, so that somebody hears of it before events are lost or refused."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from service.events.streams import FEEDBACK
from service.stores.redis_client import RedisClient, RedisUnavailable

WARN_SHARE = 0.8
INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class StreamLevel:
    """A stream as it was measured last."""

    name: str  # without the prefix of its key
    num_bytes: int
    max_bytes: int

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
        return [*filling, *(["redis_events_memory_filling"] if self._is_memory_filling else [])]

    async def run(self) -> None:
        """Measures every INTERVAL_S until it is cancelled."""
        while True:
            await self.measure()
            await asyncio.sleep(INTERVAL_S)

    async def measure(self) -> None:
        """Measures once; what was measured before stands while Redis does not answer."""
        try:
            sizes, memory = await self._redis.run(self._ask)
        except RedisUnavailable:
            return
        self.levels = [
            StreamLevel(stream.rpartition(":")[2], size or 0, self._max_bytes)
            for stream, size in zip(self._streams, sizes, strict=True)
        ]
        bound = int(memory.get("maxmemory", 0))
        # where something is evicted a full memory is a cache at work
        is_bounded = bound > 0 and memory.get("maxmemory_policy") == "noeviction"
        self._is_memory_filling = is_bounded and int(memory["used_memory"]) > WARN_SHARE * bound

    async def _ask(self, client: Redis) -> tuple[list[int | None], dict[str, Any]]:
        if self._redis.is_cluster:
            return await self._ask_cluster(cast(RedisCluster, client))
        async with client.pipeline(transaction=False) as pipe:
            for stream in self._streams:
                pipe.memory_usage(stream)
            pipe.info("memory")
            *sizes, memory = await pipe.execute()
        return sizes, memory

    async def _ask_cluster(self, cluster: RedisCluster) -> tuple[list[int | None], dict[str, Any]]:
        """Asks the node of each stream; the memory told is that of the one where feedback lies, with the histories."""
        owners = [cluster.get_node_from_key(stream) for stream in (*self._streams, FEEDBACK)]
        # the library's types allow whatever a command may answer
        sizes: list[Any] = [
            await cluster.execute_command("MEMORY USAGE", stream, target_nodes=owner)
            for stream, owner in zip(self._streams, owners, strict=False)
        ]
        memory: Any = await cluster.info("memory", target_nodes=owners[-1])
        return sizes, memory
