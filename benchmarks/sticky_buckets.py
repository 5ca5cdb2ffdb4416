"""The cost of sticky buckets: `python -m benchmarks.sticky_buckets`. Prints one JSON line.

Bytes of Redis a unit with one bucket, and CPU time of this process for a read: one at a time, and 32 at once.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path

from redis import Redis

from service.stores.buckets import RedisBuckets, bucket_key
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits

NUM_UNITS, A_PIPELINE, NUM_READS, AT_ONCE, KEEP_S = 200_000, 5_000, 3_200, 32, 1_000_000


def unit(number: int) -> str:
    return f"user_id||{100_000_000 + number}"


def fill(client: Redis) -> float:
    """Bytes a unit."""
    before = client.info("memory")["used_memory"]
    for start in range(0, NUM_UNITS, A_PIPELINE):
        with client.pipeline(transaction=False) as pipe:
            for number in range(start, start + A_PIPELINE):
                pipe.hset(bucket_key(unit(number)), "recgpt-vs-comirec__0", "control")
                pipe.expire(bucket_key(unit(number)), KEEP_S)
            pipe.execute()
    return float(client.info("memory")["used_memory"] - before) / NUM_UNITS


async def read(url: str, at_once: int) -> float:
    """CPU microseconds a read."""
    redis = RedisClient(url, "history", RedisLimits(timeout_ms=5000))
    buckets = RedisBuckets(redis, redis, KEEP_S)
    await buckets.read([unit(0)])
    started = time.process_time()
    for start in range(0, NUM_READS, at_once):
        await asyncio.gather(*(buckets.read([unit(number)]) for number in range(start, start + at_once)))
    spent = time.process_time() - started
    await redis.close()
    return 1e6 * spent / NUM_READS


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder)) as server,
        Redis.from_url(server.url) as client,
    ):
        row = {
            "units": NUM_UNITS,
            "bytes_a_unit": round(fill(client), 1),
            "us_a_read_alone": round(asyncio.run(read(server.url, 1)), 1),
            "us_a_read_of_32": round(asyncio.run(read(server.url, AT_ONCE)), 1),
        }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
