"""Sticky buckets: both twins alike, each unit its own, and a store that is away says so instead of raising."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import pytest
from redis import Redis

from service.stores.buckets import MemoryBuckets, RedisBuckets, bucket_key
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits

TWINS = pytest.mark.parametrize("kind", ["redis", "memory"])
UNIT = "user_id||ü\ud800"  # an id with half a character, as JSON allows


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@asynccontextmanager
async def open_buckets(kind, server, keep_s=1000, timeout_ms=2000):
    if kind == "memory":
        yield MemoryBuckets()
        return
    redis = RedisClient(server.url, "history", RedisLimits(timeout_ms))
    buckets = RedisBuckets(redis, redis, keep_s)
    try:
        await redis.run(lambda client: client.flushall())
        yield buckets
    finally:
        await buckets.close()
        await redis.close()


async def kept(buckets, *units):
    await buckets.close()  # what is being written
    return await buckets.read(units)


@TWINS
def test_buckets_are_kept_by_unit_and_by_name(kind, server):
    async def main():
        async with open_buckets(kind, server) as buckets:
            for unit, bucket in [(UNIT, ("a__0", "control")), ("b", ("a__0", "x")), (UNIT, ("b__1", "treatment"))]:
                buckets.keep(unit, bucket)
            assert await kept(buckets, UNIT, "nobody", "b") == [
                {"a__0": "control", "b__1": "treatment"},
                {},
                {"a__0": "x"},
            ]
            buckets.keep(UNIT, ("a__0", "third"))
            assert await kept(buckets, UNIT) == [{"a__0": "third", "b__1": "treatment"}]

    asyncio.run(main())


def test_a_unit_is_forgotten_so_long_after_it_was_read_last(server):
    async def main():
        async with open_buckets("redis", server) as buckets:
            buckets.keep(UNIT, ("a__0", "control"))
            await kept(buckets, UNIT)
            with Redis.from_url(server.url) as client:
                client.expire(bucket_key(UNIT), 5)
                await kept(buckets, UNIT)
                return client.ttl(bucket_key(UNIT))

    assert asyncio.run(main()) > 900


def test_the_twin_in_memory_forgets_the_longest_silent():
    buckets = MemoryBuckets(max_units=2)
    for unit in ("a", "b", "a", "c"):
        buckets.keep(unit, ("x__0", "control"))
    assert asyncio.run(buckets.read(["a", "b", "c"])) == [{"x__0": "control"}, {}, {"x__0": "control"}]


def test_a_broken_key_costs_its_unit_alone(server):
    async def main():
        async with open_buckets("redis", server) as buckets:
            buckets.keep("b", ("a__0", "control"))
            await buckets.close()
            with Redis.from_url(server.url) as client:
                client.set(bucket_key("a"), "not a hash")
            return await kept(buckets, "a", "b")

    assert asyncio.run(main()) == [None, {"a__0": "control"}]


def test_a_frozen_store_says_nothing_in_time_and_loses_nothing_else(server):
    async def main():
        async with open_buckets("redis", server, timeout_ms=100) as buckets:
            os.kill(server.pid, signal.SIGSTOP)
            try:
                read = await buckets.read(["a", "b"])
                buckets.keep("a", ("a__0", "control"))
                await buckets.close()
            finally:
                os.kill(server.pid, signal.SIGCONT)
            return read, buckets.num_failed

    assert asyncio.run(main()) == ([None, None], 3)
