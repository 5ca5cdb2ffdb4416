"""The stream of changes in a real Redis: every reader has all of them, in order, also those from before it came."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import redis

from service.catalogue.changes import DeleteItem, PutItem
from service.catalogue.follower import CatalogueFollower
from service.catalogue.log import COUNTER, STREAM, RedisCatalogueLog
from service.catalogue.state import LiveState
from service.errors import EventsUnavailable
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits

LIMITS = RedisLimits(timeout_ms=5000)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def empty(server):
    with redis.Redis(unix_socket_path=server.url.removeprefix("unix://").split("?")[0]) as client:
        client.delete(STREAM, COUNTER)
        yield client


@asynccontextmanager
async def opened(url, limits=LIMITS):
    clients = [RedisClient(url, role, limits) for role in ("items", "catalogue")]
    try:
        yield RedisCatalogueLog(*clients)
    finally:
        for client in clients:
            await client.close()


def test_writers_of_several_processes_share_one_order(server):
    async def main():
        async with opened(server.url) as first, opened(server.url) as second:
            numbers = await asyncio.gather(*(log.append([PutItem(n)]) for n, log in enumerate([first, second] * 50)))
            assert sorted(number for [number] in numbers) == [*range(1, 101)]
            mine, other = await first.read(), await second.read()
            assert mine == other
            assert [number for number, _ in mine] == [*range(1, 101)]
            assert await first.read() == []
            assert await first.newest() == await second.newest() == 100

    asyncio.run(main())


def test_a_follower_has_what_was_before_it_and_what_comes(server, empty):
    async def main():
        async with opened(server.url) as writer, opened(server.url) as reader:
            await writer.append([PutItem(5)])
            state = LiveState()
            follower = CatalogueFollower(reader, state)
            await follower.catch_up()
            assert state.current.current == {5: 0}
            running = asyncio.create_task(follower.run())
            [number] = await writer.append([DeleteItem(5)])
            await state.wait_for(number, asyncio.get_running_loop().time() + 20)
            assert not state.current.current
            running.cancel()

    asyncio.run(main())


def test_an_entry_that_cannot_be_read_harms_no_other(server, empty):
    async def main():
        async with opened(server.url) as log:
            await log.append([PutItem(1)])
            empty.xadd(STREAM, {"n": 2, "c": b"{}"})
            empty.xadd(STREAM, {"other": 1})
            await log.append([PutItem(2)])
            read = await log.read()
            assert [change and change.id for _, change in read] == [1, None, 2]
            # the number of the one that cannot be read counts: somebody may wait for it
            assert LiveState().current.after(read[:2]).number == 2

    asyncio.run(main())


def test_without_redis_a_change_is_refused_and_reading_goes_on_later(tmp_path):
    async def main():
        async with opened(f"unix://{tmp_path}/nobody") as log:
            with pytest.raises(EventsUnavailable):
                await log.append([PutItem(1)])
            await CatalogueFollower(log, LiveState()).catch_up()

    asyncio.run(main())
