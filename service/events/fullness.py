"""Watches how full the streams are, so that somebody hears of it before events are lost or refused."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

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
        async with client.pipeline(transaction=False) as pipe:
            for stream in self._streams:
                pipe.memory_usage(stream)
            pipe.info("memory")
            *sizes, memory = await pipe.execute()
        return sizes, memory
