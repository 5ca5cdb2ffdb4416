"""The exposure log: batches that no request waits for, a bound, and a Redis that goes and comes back."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

import pytest

from service.experiments.assignment import Assignment, Reason
from service.experiments.exposure import STREAM, Exposure, ExposureLimits, ExposureLog, exposure_id
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits

PATIENT = RedisLimits(timeout_ms=2000, open_s=0.05)
QUICK = ExposureLimits(wait_ms=5, retry_ms=5)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@asynccontextmanager
async def open_redis(url, flush=True):
    redis = RedisClient(url, "events", PATIENT)
    try:
        if flush:
            await redis.run(lambda client: client.flushall())
        yield redis
    finally:
        await redis.close()


def exposure(number, unit="user"):
    return Exposure(
        str(number), "exp", "1", unit, "recgpt", "fallback", "experiment", f"r{number}", "b1", 1000 + number
    )


async def read_all(redis):
    page = await ExposureLog(redis).events.read()
    return [entry.event for entry in page.events]


class Result(NamedTuple):
    """The part of an answer that its exposure keeps."""

    assignment: Assignment
    request_id: str = "r1"
    served: str = "fallback"
    bundle: str = "b1"


COUNTED = Assignment("recgpt", Reason.EXPERIMENT, "config", "exp", "1", "treatment")


def test_exposure_is_the_assignment_and_the_answer():
    exposed = Exposure.of("user", Result(COUNTED), 1000)
    expected_id = exposure_id(COUNTED, "user", 1000)
    assert exposed == Exposure(expected_id, "exp", "1", "user", "recgpt", "fallback", "experiment", "r1", "b1", 1000)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.EXPERIMENT])
def test_answers_outside_the_experiment_are_no_exposures(reason):
    assert Exposure.of("user", Result(replace(COUNTED, reason=reason)), 1000) is None


def test_answer_to_nobody_is_no_exposure():
    assert Exposure.of(None, Result(COUNTED), 1000) is None


def test_exposures_arrive_in_order_and_whole(server):
    async def main():
        async with open_redis(server.url) as redis:
            log = ExposureLog(redis, QUICK)
            for number in range(5):
                log.record(exposure(number))
            left = await log.close()
            return await read_all(redis), left, log.written

    assert asyncio.run(main()) == ([exposure(n) for n in range(5)], 0, 5)


def test_nothing_is_written_before_the_wait_is_over(server):
    async def main():
        async with open_redis(server.url) as redis:
            log = ExposureLog(redis, ExposureLimits(wait_ms=100))
            log.record(exposure(1))
            await asyncio.sleep(0.01)
            early = await read_all(redis)
            await asyncio.sleep(0.3)
            return early, await read_all(redis)

    assert asyncio.run(main()) == ([], [exposure(1)])


def test_full_batch_does_not_wait(server):
    async def main():
        async with open_redis(server.url) as redis:
            log = ExposureLog(redis, ExposureLimits(wait_ms=60_000, max_batch=3))
            for number in range(3):
                log.record(exposure(number))
            await asyncio.sleep(0.3)
            return log.written

    assert asyncio.run(main()) == 3


def test_full_queue_drops_and_counts(server):
    async def main():
        async with open_redis(server.url) as redis:
            log = ExposureLog(redis, ExposureLimits(max_queued=3))
            for number in range(5):
                log.record(exposure(number))
            await log.close()
            return log.written, log.dropped

    assert asyncio.run(main()) == (3, 2)


def test_exposures_wait_for_redis_to_come_back(tmp_path):
    async def main(server):
        await asyncio.to_thread(server.close)
        async with open_redis(server.url, flush=False) as redis:
            log = ExposureLog(redis, QUICK)
            for number in range(3):
                log.record(exposure(number))
            await asyncio.sleep(0.05)
            kept = log.num_queued
            await asyncio.to_thread(server.start)
            left = await log.close(limit_s=5)
            return kept, left, await read_all(redis)

    server = EmbeddedRedis(tmp_path)
    try:
        server.start()
        assert asyncio.run(main(server)) == (3, 0, [exposure(n) for n in range(3)])
    finally:
        server.close()


def test_close_gives_up_in_time_and_says_how_many_are_lost(tmp_path):
    async def main():
        async with open_redis(f"unix://{tmp_path}/nobody.sock", flush=False) as redis:
            log = ExposureLog(redis, QUICK)
            log.record(exposure(1))
            async with asyncio.timeout(5):
                return await log.close(limit_s=0.1), log.dropped

    assert asyncio.run(main()) == (1, 1)


def test_closed_log_takes_no_more(server):
    async def main():
        async with open_redis(server.url) as redis:
            log = ExposureLog(redis)
            await log.close()
            log.record(exposure(1))
            return log.num_queued, log.dropped

    assert asyncio.run(main()) == (0, 1)


def test_odd_unit_costs_only_itself(server):
    async def main():
        async with open_redis(server.url) as redis:
            log = ExposureLog(redis, QUICK)
            log.record(exposure(1, unit="\ud800"))
            log.record(exposure(2))
            await log.close()
            return await read_all(redis), log.dropped

    assert asyncio.run(main()) == ([exposure(2)], 1)


def test_stream_is_bounded(server):
    async def main():
        async with open_redis(server.url) as redis:
            log = ExposureLog(redis, ExposureLimits(max_stream=100))
            for number in range(2000):
                log.record(exposure(number))
            await log.close(limit_s=10)
            return log.written, await redis.run(lambda client: client.xlen(STREAM))

    written, length = asyncio.run(main())
    assert written == 2000
    assert length < 400  # Redis trims whole nodes of 100 entries
