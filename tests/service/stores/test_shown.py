"""The memory of what was shown: both twins alike, newest items kept, nothing added to a state that is gone."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.catalogue import IdMap
from model.ids import MAX_INTEGER, MIN_INTEGER, marks_of
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits
from service.stores.shown import MAX_SHOWN, MemoryShown, RedisShown, Shown, packed, shown_key

TWINS = pytest.mark.parametrize("kind", ["redis", "memory"])
IDS = st.integers(MIN_INTEGER, MAX_INTEGER)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@asynccontextmanager
async def open_memory(kind, server, keep_s=0):
    if kind == "memory":
        yield MemoryShown()
        return
    redis = RedisClient(server.url, "events", RedisLimits(timeout_ms=2000))
    try:
        await redis.run(lambda client: client.flushall())
        yield RedisShown(redis, keep_s)
    finally:
        await redis.close()


def marks(*items):
    return packed(marks_of(items))


@TWINS
def test_what_was_added_is_recalled_and_the_newest_are_kept(kind, server):
    async def main():
        async with open_memory(kind, server) as memory:
            assert await memory.recall("ü") == Shown()
            state = Shown()
            for start in range(0, MAX_SHOWN + 60, 20):
                added = await memory.add("ü", state, marks(*range(start, start + 20)))
                assert added.is_done
                state = added.state
                assert await memory.recall("ü") == state
            assert {*state.items.tolist()} == {*marks_of(range(60, MAX_SHOWN + 60)).tolist()}
            assert await memory.recall("another") == Shown()

    asyncio.run(main())


@TWINS
def test_of_many_that_begin_with_one_state_only_one_adds(kind, server):
    async def main():
        async with open_memory(kind, server) as memory:
            # the same list twice is no success either: it was shown before
            outcomes = await asyncio.gather(*(memory.add("u", Shown(), marks(number % 3)) for number in range(9)))
            assert [added.is_done for added in outcomes].count(True) == 1
            [state] = {added.state for added in outcomes}
            assert len(state.items) == 1

    asyncio.run(main())


def test_a_memory_is_below_a_kilobyte_and_a_half_in_redis_and_forgotten_in_time(server):
    async def main():
        async with open_memory("redis", server, keep_s=86_400) as memory:
            user = "a-user-id-of-some-36-characters-long"
            await memory.add(user, Shown(), marks(*range(MAX_SHOWN)))
            redis = RedisClient(server.url, "events", RedisLimits(timeout_ms=2000))
            used = await redis.run(lambda client: client.memory_usage(shown_key(user)))
            left = await redis.run(lambda client: client.ttl(shown_key(user)))
            await redis.close()
            assert used <= 1_536
            assert 86_000 < left <= 86_400

    asyncio.run(main())


def test_a_store_that_is_down_says_so():
    async def main():
        redis = RedisClient("redis://127.0.0.1:1", "events", RedisLimits(timeout_ms=200))
        memory = RedisShown(redis, 0)
        assert await memory.recall("u") is None
        assert await memory.add("u", Shown(), marks(1)) is None
        await redis.close()

    asyncio.run(main())


def test_the_memory_of_this_process_is_bounded():
    async def main():
        memory = MemoryShown(max_users=2)
        for user in "abc":
            await memory.add(user, Shown(), marks(1))
        assert await memory.recall("a") == Shown()
        assert len((await memory.recall("c")).items) == 1

    asyncio.run(main())


@given(st.lists(IDS, unique=True))
def test_an_id_has_one_mark_in_both_of_its_forms(ids):
    expected = marks_of(np.array(ids, dtype=np.int64)).tolist()
    assert marks_of(ids).tolist() == expected
    assert marks_of(list(map(str, ids))).tolist() == expected


def test_marks_never_change():
    assert marks_of([0, 1, -1, "ü001", "clip-007", "007"]).tolist() == [
        14819496,
        9505325,
        14997873,
        11183918,
        13570078,
        7548056,
    ]


def test_marks_lie_evenly():
    marks = marks_of(np.arange(200_000))
    assert len(np.unique(marks)) > 198_500
    assert abs(np.bincount(marks >> 20, minlength=16) / 12_500 - 1).max() < 0.05


@pytest.mark.parametrize("ids", [range(50_000), [f"clip-{n}" for n in range(50_000)]], ids=["integers", "strings"])
def test_the_rows_of_marks_are_all_that_have_one(ids):
    items = IdMap.of(list(ids))
    chosen = np.arange(1, 50_001, 97)
    rows = items.rows_of_marks(marks_of(items.external(chosen)))
    own, wanted = marks_of(items.ids.tolist()), {*marks_of(items.external(chosen)).tolist()}
    assert {*rows} == {row for row, mark in enumerate(own.tolist(), start=1) if mark in wanted}
    assert {*chosen.tolist()} <= {*rows}
    assert items.rows_of_marks(np.zeros(0, dtype=np.uint32)) == ()
