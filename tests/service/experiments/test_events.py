"""Reading exposures and feedback events: the same cases over Redis streams and over their twins in memory."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from service.errors import EventsUnavailable
from service.experiments import exposure as exposures
from service.experiments import feedback
from service.experiments.events import START, MemoryEventLog, RedisEventReader
from service.experiments.exposure import Exposure, ExposureLimits, ExposureLog, MemoryExposures
from service.experiments.feedback import Action, FeedbackEvent, MemoryFeedback, RedisFeedback
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.history import MemoryHistory
from service.stores.redis_client import RedisClient, RedisLimits

TWINS = pytest.mark.parametrize("kind", ["redis", "memory"])
EVENTS = pytest.mark.parametrize("make", ["exposure", "feedback"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@asynccontextmanager
async def open_redis(server):
    redis = RedisClient(server.url, "events", RedisLimits(timeout_ms=2000))
    try:
        await redis.run(lambda client: client.flushall())
        yield redis
    finally:
        await redis.close()


def make_exposure(number):
    return Exposure(str(number), "exp", "1", f"u{number}", "recgpt", "recgpt", "experiment", f"r{number}", "b", number)


def make_feedback(number):
    return FeedbackEvent(user=f"u{number}", item=number, action=Action.PLAY, ts_ms=number)


async def write_exposures(kind, redis, events):
    sink = MemoryExposures() if kind == "memory" else ExposureLog(redis, ExposureLimits(wait_ms=1))
    for event in events:
        sink.record(event)
    assert await sink.close() == 0
    assert (sink.written, sink.dropped) == (len(events), 0)
    return sink.events


async def write_feedback(kind, redis, events):
    sink = MemoryFeedback(MemoryHistory()) if kind == "memory" else RedisFeedback(redis)
    for event in events:
        assert await sink.keep(event)
    return sink.events


WRITERS = {"exposure": (make_exposure, write_exposures), "feedback": (make_feedback, write_feedback)}


def with_reader(server, kind, make, num_events, use):
    """The events written, and the outcome of `use(reader)`."""
    make_event, write = WRITERS[make]
    events = [make_event(number) for number in range(num_events)]

    async def main():
        async with open_redis(server) as redis:
            return await use(await write(kind, redis, events))

    return events, asyncio.run(main())


@TWINS
@EVENTS
def test_events_are_read_whole_and_in_order(server, kind, make):
    events, page = with_reader(server, kind, make, 5, lambda reader: reader.read())
    assert [entry.event for entry in page.events] == events
    assert page.last_id == page.events[-1].id
    assert page.num_damaged == 0


@TWINS
@EVENTS
def test_pages_follow_each_other_without_gap_or_repetition(server, kind, make):
    async def read_all(reader):
        pages, after = [], START
        while (page := await reader.read(after, limit=3)).events:
            pages.append([entry.event for entry in page.events])
            after = page.last_id
        return pages, page.last_id == after

    events, (pages, ends_where_it_was) = with_reader(server, kind, make, 8, read_all)
    assert pages == [events[:3], events[3:6], events[6:]]
    assert ends_where_it_was


@TWINS
@EVENTS
def test_nothing_written_is_an_empty_page_at_the_start(server, kind, make):
    _, page = with_reader(server, kind, make, 0, lambda reader: reader.read())
    assert (page.events, page.last_id) == ([], START)


@TWINS
@EVENTS
def test_any_event_is_a_place_to_continue_from(server, kind, make):
    async def read_after_each(reader):
        ids = [entry.id for entry in (await reader.read()).events]
        return [[entry.event for entry in (await reader.read(event_id)).events] for event_id in ids]

    events, rests = with_reader(server, kind, make, 4, read_after_each)
    assert rests == [events[1:], events[2:], events[3:], []]


def test_memory_keeps_the_newest_and_its_ids_stay():
    async def main():
        log = MemoryEventLog(int, max_events=3)
        for number in range(2):
            log.append(b"%d" % number)
        first = await log.read(limit=1)
        for number in range(2, 6):
            log.append(b"%d" % number)
        return [await log.read(), await log.read(first.last_id), await log.read("4-0"), await log.read("99-0")]

    pages = asyncio.run(main())
    assert [[entry.event for entry in page.events] for page in pages] == [[3, 4, 5], [3, 4, 5], [4, 5], []]


DAMAGED = [b"", b"{", b"[]", b"7", b'{"action": "stare"}', b'{"id": "without the rest"}']


def check_damage_is_counted_and_skipped(page):
    assert (page.events, page.num_damaged) == ([], len(DAMAGED))
    assert page.last_id != START  # the next page begins after the damage


@pytest.mark.parametrize("decode", [Exposure.from_json, FeedbackEvent.from_json])
def test_damaged_entries_are_counted_and_skipped_in_memory(decode):
    log = MemoryEventLog(decode)
    for entry in DAMAGED:
        log.append(entry)
    check_damage_is_counted_and_skipped(asyncio.run(log.read()))


@pytest.mark.parametrize(
    ("stream", "decode"),
    [(exposures.STREAM, Exposure.from_json), (feedback.STREAM, FeedbackEvent.from_json)],
)
def test_damaged_entries_are_counted_and_skipped_in_redis(server, stream, decode):
    async def main():
        async with open_redis(server) as redis:
            for entry in DAMAGED:
                await redis.run(lambda client, entry=entry: client.xadd(stream, {"e": entry}))
            return await RedisEventReader(redis, stream, decode).read()

    check_damage_is_counted_and_skipped(asyncio.run(main()))


def test_absent_redis_cannot_be_read(tmp_path):
    async def main():
        await RedisFeedback(RedisClient(f"unix://{tmp_path}/nobody.sock", "events")).events.read()

    with pytest.raises(EventsUnavailable):
        asyncio.run(main())


def test_memory_exposures_drop_what_cannot_be_written_and_what_comes_after_the_end():
    async def main():
        sink = MemoryExposures()
        sink.record(Exposure("1", "exp", "1", "\ud800", "recgpt", "recgpt", "experiment", "r", "b", 1))
        sink.record(make_exposure(2))
        await sink.close()
        sink.record(make_exposure(3))
        return sink.written, sink.dropped, len((await sink.events.read()).events)

    assert asyncio.run(main()) == (1, 2, 1)
