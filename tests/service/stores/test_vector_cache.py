"""The vector cache: what a key names, what a value survives, and that both twins behave alike."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.records import History
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_causes import FailureCause
from service.stores.redis_client import RedisClient, RedisLimits
from service.stores.vector_cache import ENTRY_BYTES, CacheLimits, MemoryVectorCache, RedisVectorCache, TieredVectorCache
from service.stores.vector_codec import HEADER, CachedVectors, RejectReason, cache_key, decode, encode

KEY = cache_key("bundle", "plan", History((1, 2, 3)))
PATIENT = RedisLimits(timeout_ms=2000)
TWINS = pytest.mark.parametrize("kind", ["redis", "memory"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@asynccontextmanager
async def open_cache(kind, server, limits=PATIENT):
    if kind == "memory":
        yield MemoryVectorCache()
        return
    redis = RedisClient(server.url, "cache", limits)
    try:
        await redis.run(lambda client: client.flushall())
        yield RedisVectorCache(redis)
    finally:
        await redis.close()


def vectors(seed=0, num_queries=2, width=8, num_prompts=1):
    rng = np.random.default_rng(seed)
    return CachedVectors(
        rng.normal(size=(num_queries, width)).astype(np.float32), rng.integers(1, 99, num_prompts, dtype=np.int64)
    )


def same(a, b):
    return a is not None and np.array_equal(a.vectors, b.vectors) and np.array_equal(a.prompts, b.prompts)


def key_of(number):
    return cache_key("bundle", "plan", History((number,)))


def test_key_changes_with_everything_that_changes_the_vectors():
    histories = [
        History(()),
        History((1,)),
        History((1, 2)),
        History((2, 1)),
        History((1, 2), user=1),
        History((1, 1, 2)),
    ]
    keys = [cache_key(bundle, plan, h) for bundle in ("b1", "b2") for plan in ("p1", "p2") for h in histories]
    assert len(set(keys)) == len(keys)


def test_key_is_the_same_for_the_same_input():
    assert cache_key("bundle", "plan", History((1, 2, 3))) == KEY


@given(st.integers(0, 99), st.integers(1, 8), st.integers(1, 70), st.integers(0, 5))
def test_value_survives_the_round_trip(seed, num_queries, width, num_prompts):
    value = vectors(seed, num_queries, width, num_prompts)
    decoded = decode(KEY, encode(KEY, value))
    assert same(decoded, value)
    assert (decoded.vectors.dtype, decoded.prompts.dtype) == (np.float32, np.int64)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data):
    assert isinstance(decode(KEY, data), RejectReason)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_any_flipped_bit_is_refused(position, bit):
    data = bytearray(encode(KEY, vectors()))
    data[position % len(data)] ^= 1 << bit
    assert isinstance(decode(KEY, bytes(data)), RejectReason)


@given(st.integers(0, 111))
def test_truncated_value_is_refused(length):
    assert decode(KEY, encode(KEY, vectors())[:length]) is RejectReason.SIZE


def test_value_of_another_key_is_refused():
    assert decode(key_of(2), encode(key_of(1), vectors())) is RejectReason.CHECKSUM


def nan_vectors():
    return CachedVectors(np.full((2, 8), np.nan, dtype=np.float32), np.zeros(1, dtype=np.int64))


def old_version(data):
    return data[:4] + b"\0" + data[5:]


BROKEN = {
    RejectReason.MAGIC: b"\x80\x04" + encode(KEY, vectors())[2:],
    RejectReason.VERSION: old_version(encode(KEY, vectors())),
    RejectReason.BUNDLE: encode(cache_key("other", "plan", History((1, 2, 3))), vectors()),
    RejectReason.SIZE: encode(KEY, vectors()) + b"x",
    RejectReason.CHECKSUM: encode(KEY, vectors())[: HEADER.size]
    + b"\0" * 8
    + encode(KEY, vectors())[HEADER.size + 8 :],
    RejectReason.NOT_FINITE: encode(KEY, nan_vectors()),
}


@pytest.mark.parametrize("refusal", BROKEN)
def test_broken_value_is_a_counted_miss_and_is_replaced(server, refusal):
    async def main():
        async with open_cache("redis", server) as cache:
            await cache._redis.run(lambda client: client.set(KEY, BROKEN[refusal]))
            first = await cache.get_many([KEY])
            cache.put_many([(KEY, vectors())])
            await cache.flush()
            return first, dict(cache.refused), await cache.get_many([KEY])

    first, refused, [second] = asyncio.run(main())
    assert first == [None]
    assert refused == {refusal: 1}
    assert same(second, vectors())


@TWINS
def test_what_was_put_is_found_in_order(server, kind):
    async def main():
        async with open_cache(kind, server) as cache:
            cache.put_many([(key_of(n), vectors(n)) for n in range(3)])
            await cache.flush()
            return await cache.get_many([key_of(2), key_of(9), key_of(0)]), cache.hits, cache.misses

    (two, nine, zero), hits, misses = asyncio.run(main())
    assert same(two, vectors(2))
    assert same(zero, vectors(0))
    assert (nine, hits, misses) == (None, 2, 1)


@TWINS
def test_last_put_wins(server, kind):
    async def main():
        async with open_cache(kind, server) as cache:
            cache.put_many([(KEY, vectors(1))])
            cache.put_many([(KEY, vectors(2))])
            await cache.flush()
            return await cache.get_many([KEY])

    [cached] = asyncio.run(main())
    assert same(cached, vectors(2))


@TWINS
def test_nothing_asked_is_nothing_answered(server, kind):
    async def main():
        async with open_cache(kind, server) as cache:
            return await cache.get_many([])

    assert asyncio.run(main()) == []


def test_concurrent_reads_share_one_command(server):
    async def main():
        async with open_cache("redis", server) as cache:
            await cache._redis.run(lambda client: client.config_resetstat())
            await asyncio.gather(*(cache.get_many([key_of(n)]) for n in range(100)))
            return await cache._redis.run(lambda client: client.info("commandstats"))

    assert asyncio.run(main())["cmdstat_mget"]["calls"] == 1


def test_values_expire(server):
    async def main():
        async with open_cache("redis", server) as cache:
            cache.put_many([(KEY, vectors())])
            await cache.flush()
            return await cache._redis.run(lambda client: client.ttl(KEY))

    assert 0 < asyncio.run(main()) <= CacheLimits().ttl_s


def test_full_write_queue_drops_the_oldest(server):
    async def main():
        async with open_cache("redis", server) as cache:
            small = RedisVectorCache(cache._redis, CacheLimits(max_pending=2))
            small.put_many([(key_of(n), vectors(n)) for n in range(5)])
            await small.flush()
            return [cached is not None for cached in await small.get_many([key_of(n) for n in range(5)])], small.dropped

    assert asyncio.run(main()) == ([False, False, False, True, True], 3)


def test_memory_twin_drops_the_least_recently_used():
    async def main():
        cache = MemoryVectorCache(max_entries=2)
        cache.put_many([(key_of(1), vectors(1)), (key_of(2), vectors(2))])
        await cache.get_many([key_of(1)])
        cache.put_many([(key_of(3), vectors(3))])
        return [cached is not None for cached in await cache.get_many([key_of(1), key_of(2), key_of(3)])]

    assert asyncio.run(main()) == [True, False, True]


def test_memory_twin_is_bounded_in_bytes():
    async def main():
        size = vectors().num_bytes + ENTRY_BYTES
        cache = MemoryVectorCache(max_bytes=3 * size)
        cache.put_many([(key_of(n), vectors(n)) for n in range(10)])
        cache.put_many([(key_of(9), vectors(1))] * 3)
        return cache.num_bytes / size, cache.dropped

    assert asyncio.run(main()) == (3, 7)


def test_absent_redis_is_a_miss_and_a_dropped_write(tmp_path):
    async def main():
        redis = RedisClient(f"unix://{tmp_path}/nobody.sock", "cache")
        cache = RedisVectorCache(redis)
        cache.put_many([(KEY, vectors())])
        await cache.flush()
        return await cache.get_many([KEY, KEY]), cache.misses, cache.dropped

    assert asyncio.run(main()) == ([None, None], 2, 1)


def test_killed_redis_costs_misses_only_and_hits_return(tmp_path):
    async def main(server):
        async with open_cache("redis", server) as cache:
            cache.put_many([(KEY, vectors())])
            await cache.flush()
            os.kill(server.pid, signal.SIGKILL)
            server._server.wait()
            missed = [await cache.get_many([KEY]) for _ in range(3)]
            is_down = cache._redis.is_down
            await asyncio.to_thread(server.ensure)
            return missed, is_down, await seconds_until_hit(cache)

    with EmbeddedRedis(tmp_path) as server:
        missed, is_down, recovery_s = asyncio.run(main(server))
    assert missed == [[None]] * 3
    assert is_down
    assert recovery_s < 5


async def seconds_until_hit(cache):
    start = time.monotonic()
    while await cache.get_many([KEY]) == [None]:
        assert time.monotonic() - start < 10
        cache.put_many([(KEY, vectors())])  # as the next miss would
        await asyncio.sleep(0.02)
    return time.monotonic() - start


def test_frozen_redis_makes_nobody_wait(tmp_path):
    async def timed(cache, number):
        start = time.monotonic()
        assert await cache.get_many([key_of(number)]) == [None]
        return time.monotonic() - start

    async def main(server):
        async with open_cache("redis", server, RedisLimits(timeout_ms=200, open_s=30)) as cache:
            os.kill(server.pid, signal.SIGSTOP)
            waits = [w for n in range(10) for w in await asyncio.gather(*(timed(cache, n) for _ in range(20)))]
            os.kill(server.pid, signal.SIGCONT)
            return waits, cache._redis.failures

    with EmbeddedRedis(tmp_path) as server:
        waits, failures = asyncio.run(main(server))
    assert failures[FailureCause.TIMEOUT] == 3
    assert failures[FailureCause.OPEN] == 7
    assert max(waits) < 5  # 200 ms asked; without a limit a frozen server answers never


def test_vectors_that_were_put_are_in_memory_and_in_redis(server):
    async def main():
        async with open_cache("redis", server) as in_redis:
            cache = TieredVectorCache(MemoryVectorCache(), in_redis)
            cache.put_many([(key_of(n), vectors(n)) for n in range(3)])
            await cache.flush()
            return [cache.get_local(key_of(n)) for n in range(4)], await in_redis.get_many(
                [key_of(n) for n in range(3)]
            )

    get_local, data = asyncio.run(main())
    assert get_local[3] is None
    assert all(same(get_local[n], vectors(n)) and same(data[n], vectors(n)) for n in range(3))


def test_vectors_of_redis_are_in_memory_the_next_time(server):
    async def main():
        async with open_cache("redis", server) as in_redis:
            in_redis.put_many([(key_of(n), vectors(n)) for n in (1, 3)])
            await in_redis.flush()
            cache = TieredVectorCache(MemoryVectorCache(), in_redis)
            before = [cache.get_local(key_of(n)) for n in range(4)]
            fetched = await cache.get_many([key_of(n) for n in range(4)])
            return before, fetched, [cache.get_local(key_of(n)) for n in range(4)]

    before, fetched, after = asyncio.run(main())
    assert before == [None] * 4
    for known in (fetched, after):
        assert [cached is not None for cached in known] == [False, True, False, True]
        assert same(known[1], vectors(1))
        assert same(known[3], vectors(3))
