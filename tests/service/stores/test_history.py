"""Histories by user: both twins alike, ids that keep their type, and a store that is down or damaged."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.experiments.feedback import Action, FeedbackEvent, FeedbackLimits, MemoryFeedback, RedisFeedback
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.history import MemoryHistory, RedisHistory, decode_item, encode_item, history_key
from service.stores.redis_client import RedisClient, RedisLimits

TWINS = pytest.mark.parametrize("kind", ["redis", "memory"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


class Writer:
    """Fills histories as the service does: by feedback, an event of its own for each item."""

    def __init__(self, sink):
        self._sink, self._number = sink, 0

    async def append(self, user, item):
        self._number += 1
        event = FeedbackEvent(user=user, item=item, action=Action.PLAY, ts_ms=0, event_id=str(self._number))
        assert await self._sink.keep(event)


@asynccontextmanager
async def open_history(kind, server, max_history=5):
    """The store and its writer."""
    if kind == "memory":
        histories = MemoryHistory(max_history)
        yield histories, Writer(MemoryFeedback(histories))
        return
    redis = RedisClient(server.url, "events", RedisLimits(timeout_ms=2000))
    try:
        await redis.run(lambda client: client.flushall())
        yield RedisHistory(redis, max_history), Writer(RedisFeedback(redis, FeedbackLimits(max_history=max_history)))
    finally:
        await redis.close()


def recent_after(kind, server, items, limit):
    async def main():
        async with open_history(kind, server) as (store, writer):
            for item in items:
                await writer.append("user", item)
            return await store.recent("user", limit)

    return asyncio.run(main())


@TWINS
@pytest.mark.parametrize(
    ("items", "limit", "expected"),
    [
        ([], 5, []),
        ([1, 2, 3], 5, [1, 2, 3]),
        ([1, 2, 3], 2, [2, 3]),
        ([1, 2, 3], 0, []),
        ([1, 2, 3, 4, 5, 6, 7], None, [3, 4, 5, 6, 7]),
        ([1, 2, 3, 4, 5, 6, 7], 9, [3, 4, 5, 6, 7]),
        ([1, 1, 2, 2, 1], 5, [1, 2, 1]),
        ([7, "7", "seven", "ü\n"], 5, [7, "7", "seven", "ü\n"]),
    ],
)
def test_recent_is_the_newest_oldest_first(server, kind, items, limit, expected):
    assert recent_after(kind, server, items, limit) == expected


@TWINS
def test_users_do_not_mix(server, kind):
    async def main():
        async with open_history(kind, server) as (store, writer):
            await writer.append("7", 1)
            await writer.append("u:7", 2)
            return await asyncio.gather(store.recent("7", 5), store.recent("u:7", 5), store.recent("u", 5))

    assert asyncio.run(main()) == [[1], [2], []]


def test_concurrent_reads_of_different_length_share_a_round_trip(server):
    async def main():
        async with open_history("redis", server) as (store, writer):
            for item in (1, 2, 3):
                await writer.append("user", item)
            return await asyncio.gather(*(store.recent("user", limit) for limit in (1, 2, 3)))

    assert asyncio.run(main()) == [[3], [2, 3], [1, 2, 3]]


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"]))))
def test_item_keeps_its_value_and_type(item):
    decoded = decode_item(encode_item(item))
    assert (decoded, type(decoded)) == (item, type(item))


@pytest.mark.parametrize("data", [b"", b"{", b"true", b"null", b"1.5", b"[1]", b"\xff"])
def test_damaged_item_is_none(data):
    assert decode_item(data) is None


def test_damaged_items_are_left_out_and_counted(server):
    async def main():
        async with open_history("redis", server) as (store, _):
            await store._redis.run(lambda client: client.rpush(history_key("user"), b"1", b"{", b"2"))
            return await store.recent("user", 5), store.num_corrupt

    assert asyncio.run(main()) == ([1, 2], 1)


def test_one_broken_key_costs_only_its_user(server):
    async def main():
        async with open_history("redis", server) as (store, writer):
            await store._redis.run(lambda client: client.set(history_key("broken"), b"no list"))
            await writer.append("user", 1)
            answers = await asyncio.gather(store.recent("broken", 5), store.recent("user", 5))
            return answers, store.num_failed

    assert asyncio.run(main()) == ([None, [1]], 1)


def test_absent_redis_is_an_unknown_history(tmp_path):
    async def main():
        store = RedisHistory(RedisClient(f"unix://{tmp_path}/nobody.sock", "events"))
        return await store.recent("user", 5), store.num_failed

    assert asyncio.run(main()) == (None, 1)


def test_memory_twin_forgets_the_longest_silent_user():
    async def main():
        store = MemoryHistory(max_users=2)
        for user in ("a", "b", "a", "c"):
            await store.append(user, user)
        return [await store.recent(user, 5) for user in "abc"]

    assert asyncio.run(main()) == [["a"], [], ["c"]]
