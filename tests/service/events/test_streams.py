"""Reading exposures and feedback events: the same cases over Redis streams and over their twins in memory."""

import asyncio
from contextlib import asynccontextmanager

import orjson
import pytest

from service.errors import EventsUnavailable
from service.events.outbox import MemoryOutbox, Outbox, OutboxLimits
from service.events.streams import EXPOSURES, FEEDBACK, START, MemoryEventReader, MemoryStream, RedisEventReader
from service.experiments.exposure import Exposure, Shown
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
    return Exposure(
        id=str(number),
        experiment="exp",
        phase="1",
        config="c",
        unit=f"u{number}",
        variation="treatment",
        assigned="recgpt",
        served="recgpt",
        reason="experiment",
        request_id=f"r{number}",
        bundle="b",
        ts_ms=number,
    )


def make_feedback(number):
    return FeedbackEvent(user=f"u{number}", item=number, action=Action.PLAY, ts_ms=number)


async def write_exposures(kind, redis, events):
    outbox = MemoryOutbox() if kind == "memory" else Outbox(redis, limits=OutboxLimits(wait_ms=1))
    for event in events:
        assert outbox.put(EXPOSURES, orjson.dumps(event))
    assert await outbox.close() == 0
    assert (outbox.written, outbox.dropped) == (len(events), 0)
    return outbox.reader(EXPOSURES, Exposure.from_json)


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
        stream = MemoryStream(max_events=3)
        log = MemoryEventReader(stream, int)
        for number in range(2):
            stream.append(b"%d" % number)
        first = await log.read(limit=1)
        for number in range(2, 6):
            stream.append(b"%d" % number)
        return [await log.read(), await log.read(first.last_id), await log.read("4-0"), await log.read("99-0")]

    pages = asyncio.run(main())
    assert [[entry.event for entry in page.events] for page in pages] == [[3, 4, 5], [3, 4, 5], [4, 5], []]


DAMAGED = [b"", b"{", b"[]", b"7", b'{"action": "stare"}', b'{"id": "without the rest"}']


def check_damage_is_counted_and_skipped(page):
    assert (page.events, page.num_damaged) == ([], len(DAMAGED))
    assert page.last_id != START  # the next page begins after the damage


@pytest.mark.parametrize("decode", [Exposure.from_json, FeedbackEvent.from_json, Shown.from_json])
def test_damaged_entries_are_counted_and_skipped_in_memory(decode):
    stream = MemoryStream()
    for entry in DAMAGED:
        stream.append(entry)
    check_damage_is_counted_and_skipped(asyncio.run(MemoryEventReader(stream, decode).read()))


@pytest.mark.parametrize(
    ("stream", "decode"),
    [(EXPOSURES, Exposure.from_json), (FEEDBACK, FeedbackEvent.from_json)],
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


def test_memory_takes_nothing_after_its_end():
    async def main():
        outbox = MemoryOutbox()
        await outbox.close()
        return outbox.put(EXPOSURES, b"{}"), outbox.written, outbox.dropped

    assert asyncio.run(main()) == (False, 0, 1)


def test_exposure_of_an_older_service_is_read():
    older = dict.fromkeys(("id", "experiment", "phase", "unit", "assigned", "served", "reason", "request_id"), "x")
    event = Exposure.from_json(orjson.dumps(older | {"bundle": "b", "ts_ms": 1}))
    assert (event.config, event.variation, event.unit) == ("", "", "x")
