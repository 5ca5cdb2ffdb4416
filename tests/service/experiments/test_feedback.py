"""Feedback: kept once, acknowledged only when kept, and in the history of its user; both twins alike."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from service.errors import EventsRefused, EventsUnavailable
from service.experiments.feedback import Action, FeedbackEvent, MemoryFeedback, RedisFeedback
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.history import MemoryHistory, RedisHistory, history_key
from service.stores.redis_causes import FailureCause
from service.stores.redis_client import RedisClient, RedisLimits

PATIENT = RedisLimits(timeout_ms=2000)
TWINS = pytest.mark.parametrize("kind", ["redis", "memory"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


class Stores:
    """A sink, its histories and a way to read what was kept."""

    def __init__(self, sink, history, redis=None):
        self.sink, self.history, self.redis = sink, history, redis

    async def events(self):
        return [entry.event for entry in (await self.sink.events.read()).events]


@asynccontextmanager
async def open_stores(kind, server, limits=PATIENT):
    if kind == "memory":
        history = MemoryHistory()
        yield Stores(MemoryFeedback(history), history)
        return
    redis = RedisClient(server.url, "events", limits)
    try:
        await redis.run(lambda client: client.flushall())
        yield Stores(RedisFeedback(redis), RedisHistory(redis), redis)
    finally:
        await redis.close()


def event(item=1, action=Action.PLAY, ts_ms=1000, **more):
    return FeedbackEvent(user="user", item=item, action=action, ts_ms=ts_ms, **more)


def keep_all(kind, server, events):
    """(answers, events kept, history) after keeping one after the other."""

    async def main():
        async with open_stores(kind, server) as stores:
            answers = [await stores.sink.keep(kept) for kept in events]
            return answers, await stores.events(), await stores.history.recent("user")

    return asyncio.run(main())


@TWINS
def test_event_is_kept_whole(server, kind):
    full = event("seven", Action.LIKE, event_id="e1", request_id="r1", watch_time_ms=5, duration_ms=9)
    assert keep_all(kind, server, [full]) == ([True], [full], ["seven"])


@TWINS
def test_same_id_ten_times_is_one_row_and_one_history_entry(server, kind):
    events = [event(item=n, event_id="e1", ts_ms=n) for n in range(10)]
    assert keep_all(kind, server, events) == ([True] + [False] * 9, events[:1], [0])


@TWINS
def test_same_id_at_once_is_one_row(server, kind):
    async def main():
        async with open_stores(kind, server) as stores:
            answers = await asyncio.gather(*(stores.sink.keep(event(event_id="e1")) for _ in range(10)))
            return sorted(answers), len(await stores.events())

    assert asyncio.run(main()) == ([False] * 9 + [True], 1)


@TWINS
def test_play_then_like_of_one_item_is_one_history_entry(server, kind):
    events = [event(1), event(1, Action.LIKE), event("1"), event(2), event(1, ts_ms=2000)]
    answers, kept, history = keep_all(kind, server, events)
    assert (all(answers), len(kept), history) == (True, 5, [1, "1", 2, 1])


@TWINS
def test_hide_is_kept_and_is_no_history(server, kind):
    assert keep_all(kind, server, [event(1, Action.HIDE)]) == ([True], [event(1, Action.HIDE)], [])


@TWINS
def test_hidden_items_are_those_of_the_user_and_no_others(server, kind):
    async def main():
        async with open_stores(kind, server) as stores:
            for kept in (event(1), event(2, Action.HIDE), event("2", Action.HIDE), event(2, Action.HIDE, event_id="x")):
                await stores.sink.keep(kept)
            return await stores.history.hidden(["user", "other"])

    assert asyncio.run(main()) == [[2, "2", 2], []]


@TWINS
def test_a_play_of_no_time_is_kept_and_is_no_history(server, kind):
    events = [event(1, watch_time_ms=0), event(2, watch_time_ms=1), event(3, Action.LIKE, watch_time_ms=0)]
    answers, kept, history = keep_all(kind, server, events)
    assert (answers, kept, history) == ([True] * 3, events, [2, 3])


def test_derived_id_repeats_for_the_same_event_only():
    ids = {event().event_id, event().event_id, event(watch_time_ms=7).event_id}
    others = {event(2), event("1"), event(action=Action.LIKE), event(ts_ms=2), event(request_id="r"), replaced_user()}
    assert len(ids) == 1
    assert len(ids | {other.event_id for other in others}) == 7


def replaced_user():
    return replace(event(), user="other", event_id="")


def test_absent_redis_refuses_the_event(tmp_path):
    async def main():
        await RedisFeedback(RedisClient(f"unix://{tmp_path}/nobody.sock", "events")).keep(event())

    with pytest.raises(EventsUnavailable):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("user", "cause"), [("username=reader&password=secret", "permission"), ("password=wrong", "auth")]
)
def test_redis_that_refuses_for_good_is_not_called_temporary(server, user, cause):
    async def main():
        async with open_stores("redis", server) as stores:
            rules = ("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read")
            await stores.redis.run(lambda client: client.execute_command(*rules))
        redis = RedisClient(f"{server.url}?{user}", "events", PATIENT)
        # the second call finds an open breaker where the password is wrong
        for _ in range(2):
            with pytest.raises(EventsRefused, match=cause):
                await RedisFeedback(redis).keep(event())
        await redis.close()
        return redis.refusal

    assert asyncio.run(main()) == cause


def test_frozen_redis_refuses_in_time_and_a_repetition_is_kept_once(tmp_path):
    async def main(server):
        async with open_stores("redis", server, RedisLimits(timeout_ms=300, open_s=0.05)) as stores:
            os.kill(server.pid, signal.SIGSTOP)
            with pytest.raises(EventsUnavailable):
                await stores.sink.keep(event())
            os.kill(server.pid, signal.SIGCONT)
            await asyncio.sleep(0.3)
            await keep_at_last(stores.sink)
            return len(await stores.events())

    with EmbeddedRedis(tmp_path) as server:
        assert asyncio.run(main(server)) == 1


async def keep_at_last(sink):
    async with asyncio.timeout(10):
        while True:
            try:
                return await sink.keep(event())
            except EventsUnavailable:
                await asyncio.sleep(0.02)


def test_restarted_redis_remembers_events_and_knows_the_script_again(tmp_path):
    async def main(server):
        async with open_stores("redis", server, RedisLimits(timeout_ms=2000, open_s=0.05)) as stores:
            first = await stores.sink.keep(event(1))
            await asyncio.to_thread(server.close)
            await asyncio.to_thread(server.start)
            return first, await stores.sink.keep(event(1)), await stores.sink.keep(event(2))

    server = EmbeddedRedis(tmp_path)
    try:
        server.start()
        assert asyncio.run(main(server)) == (True, False, True)
    finally:
        server.close()


def test_event_refused_for_memory_is_new_when_sent_again(tmp_path):
    async def main(server):
        async with open_stores("redis", server) as stores:
            await stores.redis.run(lambda client: client.config_set("maxmemory", 1))
            with pytest.raises(EventsUnavailable):
                await stores.sink.keep(event())
            await stores.redis.run(lambda client: client.config_set("maxmemory", 0))
            return (
                await stores.sink.keep(event()),
                len(await stores.events()),
                stores.redis.failures[FailureCause.MEMORY],
            )

    with EmbeddedRedis(tmp_path) as server:
        assert asyncio.run(main(server)) == (True, 1, 1)


def test_broken_history_costs_no_event(server):
    async def main():
        async with open_stores("redis", server) as stores:
            await stores.redis.run(lambda client: client.set(history_key("user"), b"no list"))
            return await stores.sink.keep(event()), await stores.sink.keep(event()), len(await stores.events())

    assert asyncio.run(main()) == (True, False, 1)


def test_concurrent_events_share_a_round_trip(server):
    async def main():
        async with open_stores("redis", server) as stores:
            await stores.redis.run(lambda client: client.config_resetstat())
            answers = await asyncio.gather(*(stores.sink.keep(event(n)) for n in range(50)))
            stats = await stores.redis.run(lambda client: client.info("commandstats"))
            return all(answers), len(await stores.history.recent("user")), stats["cmdstat_script"]["calls"]

    assert asyncio.run(main()) == (True, 50, 1)


@TWINS
def test_two_users_may_use_the_same_event_id(server, kind):
    events = [replace(event(event_id="1"), user="user"), replace(event(event_id="1"), user="other")]
    answers, kept, _ = keep_all(kind, server, events)
    assert (answers, len(kept)) == ([True, True], 2)
