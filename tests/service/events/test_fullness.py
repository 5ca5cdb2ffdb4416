"""Warnings before a stream, or the Redis that keeps it, is full."""

import asyncio
import time

import pytest

from service.events.fullness import FullnessWatch
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits

STREAMS = ("recall:exposures", "recall:feedback")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


def measured(url, max_stream_bytes, prepare=None):
    async def main():
        redis = RedisClient(url, "events", RedisLimits(timeout_ms=2000))
        watch = FullnessWatch(redis, STREAMS, max_stream_bytes)
        if prepare:
            await redis.run(prepare)
        await watch.measure()
        await redis.close()
        return watch

    return asyncio.run(main())


async def fill(client):
    await client.flushall()
    for _ in range(100):
        await client.xadd(STREAMS[0], {"e": b"x" * 1000})


def test_a_stream_warns_from_four_fifths_on(server):
    size = measured(server.url, 1 << 20, fill).levels[0].num_bytes
    assert size > 100_000
    assert measured(server.url, int(size * 1.3)).warnings() == []
    assert measured(server.url, int(size * 1.2)).warnings() == ["stream_exposures_filling"]


@pytest.mark.parametrize(("age_s", "warnings"), [(700, ["events_not_consumed"]), (500, [])])
def test_events_that_wait_too_long_say_that_nobody_consumes_them(server, age_s, warnings):
    async def write(client):
        await client.flushall()
        await client.xadd(STREAMS[1], {"e": b"old"}, id=f"{int((time.time() - age_s) * 1e3)}-0")
        await client.xadd(STREAMS[1], {"e": b"new"})

    watch = measured(server.url, 1 << 20, write)
    assert watch.warnings() == warnings
    assert [level.oldest_s for level in watch.levels] == [0, pytest.approx(age_s, abs=60)]


@pytest.mark.parametrize(
    ("policy", "warnings"), [("noeviction", ["redis_events_memory_filling"]), ("volatile-ttl", [])]
)
def test_memory_warns_where_nothing_is_evicted(server, policy, warnings):
    async def bound(client):
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory-policy", policy)
        await client.config_set("maxmemory", int(used * 1.1))

    async def free(client):
        await client.config_set("maxmemory", 0)

    try:
        assert measured(server.url, 1 << 20, bound).warnings() == warnings
    finally:
        measured(server.url, 1 << 20, free)


def test_what_was_measured_stands_while_redis_is_away(tmp_path):
    async def main(server):
        redis = RedisClient(server.url, "events", RedisLimits(timeout_ms=2000))
        watch = FullnessWatch(redis, STREAMS, 1000)
        await redis.run(fill)
        await watch.measure()
        levels = watch.levels
        await asyncio.to_thread(server.close)
        await watch.measure()
        await redis.close()
        return watch.levels is levels, redis.failures.total(), watch.warnings()

    with EmbeddedRedis(tmp_path) as server:
        assert asyncio.run(main(server)) == (True, 1, ["stream_exposures_filling"])
