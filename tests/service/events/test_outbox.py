"""Events on their way: batches that no request waits for, a bound, a spool, and a Redis that goes and comes back."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import pytest

from service.errors import ConfigurationError
from service.events.outbox import Outbox, OutboxLimits
from service.events.spool import Spool
from service.events.streams import RedisEventReader
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits

PATIENT = RedisLimits(timeout_ms=2000, open_s=0.05)
HASTY = RedisLimits(timeout_ms=50, open_s=0.05)
QUICK = OutboxLimits(wait_ms=5, retry_ms=5)
STREAM = "recall:test"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@asynccontextmanager
async def open_redis(url, flush=True, limits=PATIENT):
    redis = RedisClient(url, "events", limits)
    try:
        if flush:
            await redis.run(lambda client: client.flushall())
        yield redis
    finally:
        await redis.close()


def event(number):
    return b"%d" % number


async def read_all(redis, stream=STREAM):
    return [entry.event for entry in (await RedisEventReader(redis, stream, int).read(limit=100_000)).events]


def put_all(outbox, numbers):
    return [outbox.put(STREAM, event(number)) for number in numbers]


def test_events_arrive_in_order_and_whole(server):
    async def main():
        async with open_redis(server.url) as redis:
            outbox = Outbox(redis, limits=QUICK)
            put_all(outbox, range(5))
            lost = await outbox.close()
            return await read_all(redis), lost, outbox.written

    assert asyncio.run(main()) == ([0, 1, 2, 3, 4], 0, 5)


def test_nothing_is_written_before_the_wait_is_over(server):
    async def main():
        async with open_redis(server.url) as redis:
            outbox = Outbox(redis, limits=OutboxLimits(wait_ms=100))
            put_all(outbox, [1])
            await asyncio.sleep(0.01)
            early = await read_all(redis)
            await asyncio.sleep(0.3)
            return early, await read_all(redis)

    assert asyncio.run(main()) == ([], [1])


def test_full_batch_does_not_wait(server):
    async def main():
        async with open_redis(server.url) as redis:
            outbox = Outbox(redis, limits=OutboxLimits(wait_ms=60_000, max_batch=3))
            put_all(outbox, range(3))
            await asyncio.sleep(0.3)
            return outbox.written

    assert asyncio.run(main()) == 3


def test_full_queue_drops_and_counts(server):
    async def main():
        async with open_redis(server.url) as redis:
            outbox = Outbox(redis, limits=OutboxLimits(max_queued_bytes=3))
            taken = put_all(outbox, range(5))
            await outbox.close()
            return taken, outbox.written, outbox.dropped

    assert asyncio.run(main()) == ([True] * 3 + [False] * 2, 3, 2)


def test_closed_outbox_takes_no_more(server):
    async def main():
        async with open_redis(server.url) as redis:
            outbox = Outbox(redis)
            await outbox.close()
            return put_all(outbox, [1]), outbox.num_queued, outbox.dropped

    assert asyncio.run(main()) == ([False], 0, 1)


@pytest.mark.parametrize("with_spool", [True, False])
def test_events_wait_for_redis_to_come_back(tmp_path, with_spool):
    async def main(server):
        await asyncio.to_thread(server.close)
        async with open_redis(server.url, flush=False) as redis:
            outbox = Outbox(redis, Spool(tmp_path / "spool", 1000) if with_spool else None, QUICK)
            put_all(outbox, range(3))
            await asyncio.sleep(0.1)
            waiting = outbox.num_queued, outbox.spool_bytes > 0, outbox.warnings()
            await asyncio.to_thread(server.start)
            lost = await outbox.close(limit_s=5) if not with_spool else await empty(outbox)
            return waiting, lost, await read_all(redis), outbox.written

    server = EmbeddedRedis(tmp_path / "redis")
    try:
        server.start()
        waiting = (0, True, ["events_spooled"]) if with_spool else (3, False, [])
        assert asyncio.run(main(server)) == (waiting, 0, [0, 1, 2], 3)
    finally:
        server.close()


@pytest.mark.parametrize("with_spool", [True, False])
def test_stream_that_redis_refuses_costs_the_others_nothing(server, tmp_path, with_spool):
    async def main():
        async with open_redis(server.url) as redis:
            await redis.run(lambda client: client.set("recall:refused", "no stream"))
            outbox = Outbox(redis, Spool(tmp_path / "spool", 1000) if with_spool else None, QUICK)
            for number in range(3):
                outbox.put("recall:refused", event(number))
                outbox.put(STREAM, event(number))
            await asyncio.sleep(0.3)
            # tried again meanwhile, and what Redis has taken is not written again
            waiting = await read_all(redis), outbox.written, outbox.num_queued, outbox.warnings()
            await redis.run(lambda client: client.delete("recall:refused"))
            lost = await empty(outbox) if with_spool else await outbox.close(limit_s=5)
            return waiting, lost, await read_all(redis), await read_all(redis, "recall:refused")

    told = (0, ["events_spooled"]) if with_spool else (3, [])
    assert asyncio.run(main()) == (([0, 1, 2], 3, *told), 0, [0, 1, 2], [0, 1, 2])


async def empty(outbox):
    """Closes it once the spool is empty; fails when that takes too long."""
    async with asyncio.timeout(10):
        while outbox.spool_bytes:  # noqa: ASYNC110  (nothing tells of an empty spool)
            await asyncio.sleep(0.01)
    return await outbox.close()


def test_stopped_while_redis_is_frozen_loses_nothing(tmp_path):
    folder = tmp_path / "spool"

    async def stop_meanwhile(server):
        async with open_redis(server.url, flush=False, limits=HASTY) as redis:
            outbox = Outbox(redis, Spool(folder, 1 << 20), QUICK)
            os.kill(server.pid, signal.SIGSTOP)
            put_all(outbox, range(1000))
            await asyncio.sleep(0.1)
            put_all(outbox, range(1000, 2200))
            lost = await outbox.close(limit_s=0.3)
            os.kill(server.pid, signal.SIGCONT)
            return lost

    async def start_again(server):
        async with open_redis(server.url, flush=False) as redis:
            outbox = Outbox(redis, Spool(folder, 1 << 20), QUICK)
            await empty(outbox)
            return set(await read_all(redis))

    with EmbeddedRedis(tmp_path / "redis") as server:
        assert asyncio.run(stop_meanwhile(server)) == 0
        assert asyncio.run(start_again(server)) == set(range(2200))
    assert list(folder.iterdir()) == []


def test_without_a_spool_close_says_how_many_are_lost(tmp_path):
    async def main():
        async with open_redis(f"unix://{tmp_path}/nobody.sock", flush=False) as redis:
            outbox = Outbox(redis, limits=QUICK)
            put_all(outbox, [1])
            async with asyncio.timeout(5):
                return await outbox.close(limit_s=0.1), outbox.dropped

    assert asyncio.run(main()) == (1, 1)


def test_stream_is_bounded_in_bytes(server):
    limit = 200_000

    async def main():
        async with open_redis(server.url) as redis:
            outbox = Outbox(redis, limits=OutboxLimits(max_stream_bytes=limit))
            for number in range(3000):
                outbox.put(STREAM, b"[%d, %s]" % (number, b"1" * 300))
            await outbox.close(limit_s=10)
            size = await redis.run(lambda client: client.memory_usage(STREAM))
            return outbox.written, size, await redis.run(lambda client: client.xlen(STREAM))

    written, size, length = asyncio.run(main())
    assert written == 3000
    assert 0.5 * limit < size < 1.2 * limit
    assert length < 1000


# --- the spool


def test_spool_gives_back_what_it_took(tmp_path):
    spool = Spool(tmp_path, 1000)
    entries = [("a", b'{"x": 1}'), ("b", b"[]")]
    assert spool.append(entries) == 2
    read, num_bytes = spool.read()
    assert read == entries
    spool.forget(num_bytes)
    assert (spool.num_bytes, spool.read()) == (0, ([], 0))


def test_spool_takes_what_fits(tmp_path):
    spool = Spool(tmp_path, 12)
    assert spool.append([("a", b"12"), ("a", b"34"), ("a", b"56")]) == 2
    assert spool.append([("a", b"7")]) == 0


def test_torn_end_is_passed_over(tmp_path):
    (tmp_path / "gone.spool").write_bytes(b"a\t1\na\t2")
    spool = Spool(tmp_path, 1000)
    entries, num_bytes = spool.read()
    assert entries == [("a", b"1")]
    spool.forget(num_bytes)
    assert spool.read()[0] == []
    spool.forget(spool.read()[1])
    assert spool.num_bytes == 0


def test_spool_of_a_running_process_is_left_to_it(tmp_path):
    first = Spool(tmp_path, 1000)
    first.append([("a", b"1")])
    second = Spool(tmp_path, 1000)
    assert second.num_bytes == 0
    second.close()
    first.close()
    assert Spool(tmp_path, 1000).read()[0] == [("a", b"1")]


def test_folder_that_cannot_be_written_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="no spool in"):
        Spool(tmp_path / "file" / "spool", 1000)
