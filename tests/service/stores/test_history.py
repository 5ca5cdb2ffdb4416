"""Histories by user: both twins alike, ids that keep their type, and a store that is down or damaged."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
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

    async def append(self, user, item, ts_ms=None):
        """Without a time of its own each is newer than the one before."""
        self._number += 1
        at = self._number if ts_ms is None else ts_ms
        event = FeedbackEvent(user=user, item=item, action=Action.PLAY, ts_ms=at, event_id=str(self._number))
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


def told(kind, server, actions, max_history=50):
    """The history after actions (item, time) in the order in which they were told."""

    async def main():
        async with open_history(kind, server, max_history) as (store, writer):
            for item, at in actions:
                await writer.append("user", item, at)
            return await store.recent("user")

    return asyncio.run(main())


@TWINS
@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([("a", 1), ("c", 3), ("b", 2)], ["a", "b", "c"]),
        ([("b", 2), ("c", 3), ("a", 1)], ["a", "b", "c"]),
        # a play and its like are one entry, and what came between divides it
        ([("a", 1), ("a", 3), ("b", 2)], ["a", "b", "a"]),
        ([("a", 1), ("a", 3), ("c", 4), ("b", 2)], ["a", "b", "a", "c"]),
        # late, beside the same item: no entry of its own, and what comes between later divides it as well
        ([("a", 1), ("c", 5), ("a", 2)], ["a", "c"]),
        ([("a", 1), ("c", 5), ("c", 3)], ["a", "c"]),
        ([("a", 1), ("c", 5), ("c", 3), ("b", 4)], ["a", "c", "b", "c"]),
        ([("c", 5), ("c", 3), ("a", 1)], ["a", "c"]),
        ([("a", 1), ("a", 5), ("a", 3), ("b", 2), ("b", 4)], ["a", "b", "a", "b", "a"]),
        # of one moment, those that came first go first; each once, whoever tells it again
        ([("a", 1), ("b", 1), ("a", 1), ("b", 1)], ["a", "b"]),
        ([("a", 1), ("b", 2), ("c", 3), ("a", 1), ("b", 2)], ["a", "b", "c"]),
    ],
)
def test_an_action_takes_its_place_by_its_time(server, kind, actions, expected):
    assert told(kind, server, actions) == expected


@TWINS
def test_an_item_on_repeat_is_one_short_entry(server, kind):
    actions = [("a", at) for at in range(1, 500)] + [("b", 498)]
    assert told(kind, server, [("b", 0), *actions], max_history=3) == ["a", "b", "a"]


@TWINS
def test_the_newest_are_kept_whenever_they_are_told(server, kind):
    order = [7, 2, 9, 4, 1, 8, 3, 6, 5]
    assert told(kind, server, [(n, n) for n in order], max_history=4) == [6, 7, 8, 9]


@TWINS
def test_what_is_older_than_a_full_history_does_not_enter(server, kind):
    assert told(kind, server, [(n, n) for n in (3, 4, 5, 1, 2)], max_history=3) == [3, 4, 5]


def collapsed(actions):
    """The history of actions that were told in the order of their times."""
    items = [item for item, _ in sorted(actions, key=lambda action: action[1])]
    return [item for number, item in enumerate(items) if not number or items[number - 1] != item]


def shuffled_actions(rng):
    """Actions on few items at times of their own, in a random order; never more on one than an entry has times."""
    times = rng.permutation(500)[: rng.integers(1, 60)]
    return [(int(item), int(at)) for item, at in zip(rng.integers(0, 6, len(times)), times, strict=True)]


@TWINS
def test_a_shuffled_history_is_the_one_in_order(server, kind):
    """In every order of arrival; lists are longer than the end that is looked at first."""
    rng = np.random.default_rng(3)
    users = {f"user {number}": shuffled_actions(rng) for number in range(60)}

    async def main():
        async with open_history(kind, server, max_history=100) as (store, writer):
            for user, actions in users.items():
                for item, at in actions:
                    await writer.append(user, item, at)
            return {user: await store.recent(user) for user in users}

    assert asyncio.run(main()) == {user: collapsed(actions) for user, actions in users.items()}


@pytest.mark.parametrize(("at", "reads"), [(9_999, 1), (995, 2), (1, 3)], ids=["newest", "late", "very late"])
def test_an_action_reads_no_more_of_a_long_history_than_it_goes_back(server, at, reads):
    async def main():
        async with open_history("redis", server, max_history=1000) as (store, writer):
            entries = [f"{n}\t{n}" for n in range(1000)]
            await store._redis.run(lambda client: client.rpush(history_key("user"), *entries))
            await store._redis.run(lambda client: client.config_resetstat())
            await writer.append("user", "new", at)
            stats = await store._redis.run(lambda client: client.info("commandstats"))
            kept = await store.recent("user")
            return stats["cmdstat_lrange"]["calls"], len(kept), "new" in kept

    assert asyncio.run(main()) == (reads, 1000, True)


def test_entries_of_earlier_versions_are_older_than_all_others(server):
    async def main():
        async with open_history("redis", server) as (store, writer):
            await store._redis.run(lambda client: client.rpush(history_key("user"), b"1", b'"a"', b"2"))
            for item, at in ((2, 20), (3, 30), (4, 10)):
                await writer.append("user", item, at)
            return await store.recent("user", 9)

    # the last of them goes on with a like that is told now, until something between divides it
    assert asyncio.run(main()) == ["a", 2, 4, 2, 3]


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
            await store.take(user, user, 1)
        return [await store.recent(user, 5) for user in "abc"]

    assert asyncio.run(main()) == [["a"], [], ["c"]]
