"""The users who may have hidden something: certain where a hide is kept, heard of elsewhere, never too few."""

import asyncio
import os
import signal
import tracemalloc
from contextlib import asynccontextmanager

import pytest

from service.experiments.feedback import Action, FeedbackEvent, RedisFeedback
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.hiders import CHANNEL, CHUNK, COMPLETE_KEY, KEY, NUM_BITS, Hiders, bits_of
from service.stores.history import RedisHistory, hidden_key
from service.stores.redis_client import RedisClient, RedisLimits
from tests.waiting import until

PATIENT = RedisLimits(timeout_ms=10_000)


@pytest.fixture
def server(tmp_path):
    with EmbeddedRedis(tmp_path) as running:
        yield running


@asynccontextmanager
async def following(server):
    """A process of its own, as far as this goes: its copy, and its feedback and histories over the same Redis."""
    redis = RedisClient(server.url, "history", PATIENT)
    hiders = Hiders(redis)
    task = asyncio.create_task(hiders.follow())
    try:
        yield hiders, RedisFeedback(redis, hiders=hiders), RedisHistory(redis, hiders=hiders)
    finally:
        task.cancel()
        await asyncio.wait([task])
        await redis.close()


def knows(hiders):
    """True once the copy is whole: nobody of these has hidden anything."""
    return lambda: not all(hiders.may_contain(f"nobody {n}") for n in range(20))


def hide(user, item=7):
    return FeedbackEvent(user=user, item=item, action=Action.HIDE, ts_ms=0)


def test_every_user_may_have_hidden_something_until_the_copy_is_whole(server):
    async def main():
        redis = RedisClient(server.url, "history")
        hiders = Hiders(redis)
        before = hiders.may_contain("user")
        hiders.add("user")
        await redis.close()
        return before, hiders.may_contain("user"), hiders.may_contain("other")

    assert asyncio.run(main()) == (True, True, True)


def test_a_hide_is_known_at_once_where_it_was_kept_and_soon_everywhere(server):
    async def main():
        async with following(server) as (own, feedback, history), following(server) as (other, *_):
            await until(knows(own))
            await until(knows(other))
            assert not history.may_have_hidden("user")
            await feedback.keep(hide("user"))
            at_once = own.may_contain("user")
            await until(lambda: other.may_contain("user"))
            # a play is none
            await feedback.keep(FeedbackEvent(user="player", item=7, action=Action.PLAY, ts_ms=0))
            return at_once, history.may_have_hidden("user"), history.may_have_hidden("player")

    assert asyncio.run(main()) == (True, True, False)


def test_a_process_that_starts_reads_what_was_kept_before(server):
    async def main():
        async with following(server) as (_, feedback, _):
            for n in range(50):
                await feedback.keep(hide(f"user {n}"))
        async with following(server) as (later, *_):
            await until(knows(later))
            return [later.may_contain(f"user {n}") for n in range(50)]

    assert all(asyncio.run(main()))


def test_lists_older_than_the_bits_are_found_once(server):
    async def main():
        redis = RedisClient(server.url, "history", PATIENT)
        names = [f"old {n}" for n in range(1500)] + ["ü", "\udce9"]
        await redis.pipeline(lambda pipe: [pipe.rpush(hidden_key(name), b"7") for name in names])
        async with following(server) as (hiders, *_):
            await until(knows(hiders))
            are_known = [hiders.may_contain(name) for name in names]
        marked = await redis.get_many([COMPLETE_KEY])
        await redis.close()
        return are_known, marked

    are_known, marked = asyncio.run(main())
    assert (all(are_known), marked) == (True, [b"1"])


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_lost_channel_makes_every_user_one_who_may_have(server, how):
    async def main():
        redis = RedisClient(server.url, "events", PATIENT)
        async with following(server) as (hiders, *_):
            await until(knows(hiders))
            if how == "frozen":
                os.kill(server.pid, signal.SIGSTOP)
                try:
                    await until(lambda: hiders.may_contain("missed"))
                finally:
                    os.kill(server.pid, signal.SIGCONT)
            else:
                await redis.run(lambda client: client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
                await until(lambda: hiders.may_contain("missed"))
            # kept by a process that this one does not hear
            await RedisFeedback(redis).keep(hide("missed"))
            await until(knows(hiders))
            await redis.close()
            return hiders.may_contain("missed")

    assert asyncio.run(main())


def test_bits_are_those_that_redis_sets(server):
    async def main():
        redis = RedisClient(server.url, "history", PATIENT)
        user = next(name for name in map(str, range(1000)) if max(bits_of(name)) > 8 * CHUNK)
        await RedisFeedback(redis).keep(hide(user))
        bits = [await redis.run(lambda client, at=bit: client.getbit(KEY, at)) for bit in bits_of(user)]
        length = await redis.run(lambda client: client.strlen(KEY))
        await redis.close()
        return bits, length, max(bits_of(user)) // 8 + 1

    bits, length, expected = asyncio.run(main())
    assert (bits, length) == ([1, 1], expected)


def test_few_users_are_taken_for_another(server):
    async def main():
        async with following(server) as (hiders, *_):
            await until(knows(hiders))
            for n in range(20_000):
                hiders.add(f"hider {n}")
            return [sum(hiders.may_contain(f"{name} {n}") for n in range(20_000)) for name in ("hider", "other")]

    num_known, wrong = asyncio.run(main())
    assert (num_known, wrong <= 3) == (20_000, True)


@pytest.mark.parametrize("message", ["no number", str(NUM_BITS * 8)])
def test_a_foreign_message_makes_every_user_one_who_may_have_until_all_is_read_again(server, message):
    async def main():
        redis = RedisClient(server.url, "events", PATIENT)
        async with following(server) as (hiders, feedback, _):
            await until(knows(hiders))
            await redis.run(lambda client: client.publish(CHANNEL, message))
            await until(lambda: hiders.may_contain("nobody at all"))
            await feedback.keep(hide("meanwhile"))
            await until(knows(hiders))
            await redis.close()
            return hiders.may_contain("meanwhile")

    assert asyncio.run(main())


def test_who_follows_no_more_is_certain_of_nobody(server):
    async def main():
        async with following(server) as (hiders, *_):
            await until(knows(hiders))
        return hiders.may_contain("nobody")

    assert asyncio.run(main())


def test_a_channel_that_is_lost_again_needs_no_second_copy(server):
    async def main():
        redis = RedisClient(server.url, "events", PATIENT)
        async with following(server) as (hiders, feedback, _):
            await feedback.keep(hide("user"))
            await until(knows(hiders))
            tracemalloc.start()
            await redis.run(lambda client: client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
            await until(lambda: hiders.may_contain("nobody"))
            await until(knows(hiders))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            await redis.close()
            return peak, hiders.may_contain("user")

    peak, is_known = asyncio.run(main())
    assert (peak < NUM_BITS // 8, is_known) == (True, True)
