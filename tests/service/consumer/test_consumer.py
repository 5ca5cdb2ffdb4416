"""From streams to files: each event is one row, wherever the consumer ends, and what is no event is put aside."""

import asyncio
import json
import os
import signal
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import polars as pl
import psutil
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from benchmarks.consumer_kills import EXPOSURE, FEEDBACK_EVENT, survive
from model.folders.files import FRESH
from service.consumer.child import ENVIRONMENT, ConsumerProcess
from service.consumer.consumer import GROUP, NAME, StreamConsumer
from service.consumer.files import EventFolder
from service.consumer.limits import ConsumerLimits
from service.consumer.process import open_consumer
from service.consumer.tables import TABLES
from service.errors import ConfigurationError
from service.events.streams import EXPOSURES, FEEDBACK, FORCED, INTERLEAVED, SHADOW, SHOWN, STREAMS
from service.stores.embedded_redis import EmbeddedRedis

TABLE = {table.name: table for table in TABLES}["feedback"]
SHOWN_EVENT = {**EXPOSURE, "share": 0.1, "items": [7, "seven"], "scores": [0.5, 0.25]}
SHADOW_EVENT = {
    **dict.fromkeys(("request_id", "experiment", "phase", "config", "unit", "variation", "served", "bundle"), "x"),
    **{"ts_ms": 1, "share": 0.1, "items": [7, "seven"], "shadow": "y", "shadow_bundle": "z", "shadow_items": [8]},
    **{"shadow_scores": [0.5], "asked": 2, "shadow_took_ms": 1.5},
}
INTERLEAVED_EVENT = EXPOSURE | {"teams": ["a", "b"], "picks": [0, 1], "in_both": 0, "items": [7, "seven"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def client(server):
    with Redis.from_url(server.url, protocol=2) as client:
        client.flushall()
        yield client


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "events"


def feed(client, numbers):
    for number in numbers:
        client.xadd(FEEDBACK, {"e": orjson.dumps(FEEDBACK_EVENT | {"event_id": str(number)})})


@contextmanager
def opened(client, folder, table=TABLE):
    """A consumer of one stream, as a process that starts has it."""
    files = EventFolder(folder)
    try:
        consumer = StreamConsumer(client, table, files)
        consumer.open()
        yield consumer
    finally:
        files.close()


def drain(consumer):
    while consumer.step():
        pass


def ids(folder, table="feedback"):
    paths = sorted((folder / table).glob("*/*.parquet"))
    return pl.concat([pl.read_parquet(path, glob=False) for path in paths])["event_id"].to_list() if paths else []


def numbered(*numbers):
    return [str(number) for number in numbers]


def test_each_kind_of_event_has_its_table(server, client, folder):
    client.xadd(EXPOSURES, {"e": orjson.dumps(EXPOSURE | {"id": "x1"})})
    client.xadd(FORCED, {"e": orjson.dumps(EXPOSURE | {"id": "x2", "from_a_later_service": 1})})
    client.xadd(SHOWN, {"e": orjson.dumps(SHOWN_EVENT)})
    client.xadd(INTERLEAVED, {"e": orjson.dumps(INTERLEAVED_EVENT)})
    client.xadd(SHADOW, {"e": orjson.dumps(SHADOW_EVENT)})
    feed(client, [1])
    with open_consumer(server.url, folder) as consumer:
        tables = ("exposures", "shown", "interleaved", "shadow", "forced", "feedback")
        assert consumer.run_once() == dict.fromkeys(tables, 1)
    rows = {name: pl.read_parquet(folder / name / "*" / "*.parquet").to_dicts()[0] for name in tables}
    assert rows["exposures"]["id"] == "x1"
    assert (rows["shadow"]["items"], rows["shadow"]["shadow_items"]) == (["7", "seven"], ["8"])
    assert (rows["shown"]["items"], rows["shown"]["scores"]) == (["7", "seven"], [0.5, 0.25])
    assert [client.xlen(stream) for stream in STREAMS] == [0] * 6


def test_rows_are_in_order_and_files_are_bounded(client, folder):
    feed(client, range(10))
    with opened(client, folder, replace(TABLE, max_rows=4)) as consumer:
        assert [consumer.step() for _ in range(4)] == [4, 4, 2, 0]
    assert ids(folder) == numbered(*range(10))
    assert len([*folder.glob("feedback/*/*.parquet")]) == 3


def test_what_a_dead_consumer_had_read_is_written_once(client, folder):
    feed(client, range(5))
    with opened(client, folder):
        client.xreadgroup(GROUP, NAME, {FEEDBACK: ">"}, count=3)
    with opened(client, folder) as consumer:
        drain(consumer)
    assert ids(folder) == numbered(*range(5))


class Unacknowledging(Redis):
    """A connection that ends where a batch should be acknowledged."""

    def pipeline(self, *args, **options):
        raise RedisConnectionError("gone")


def write_unacknowledged(server, folder):
    with (
        Unacknowledging.from_url(server.url, protocol=2) as failing,
        opened(failing, folder) as consumer,
        pytest.raises(RedisConnectionError),
    ):
        consumer.step()


def test_what_was_written_and_not_acknowledged_is_not_written_again(server, client, folder):
    feed(client, range(5))
    write_unacknowledged(server, folder)
    feed(client, range(5, 8))
    with opened(client, folder) as consumer:
        drain(consumer)
    assert ids(folder) == numbered(*range(8))


def test_a_group_that_was_lost_writes_nothing_twice(server, client, folder):
    feed(client, range(5))
    write_unacknowledged(server, folder)
    client.xgroup_destroy(FEEDBACK, GROUP)
    feed(client, range(5, 8))
    with opened(client, folder) as consumer:
        drain(consumer)
    assert ids(folder) == numbered(*range(8))


def test_half_a_file_is_removed_at_start(client, folder):
    part = folder / "feedback" / "2026-11-27" / f".1-0_2-0.parquet.77{FRESH}"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"PAR1")
    with opened(client, folder):
        assert not part.exists()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"event_id": "1"}', orjson.dumps(FEEDBACK_EVENT | {"event_id": 7})]
)
def test_what_is_no_event_goes_to_the_dead_letters(client, folder, data):
    feed(client, [1])
    stream_id = client.xadd(FEEDBACK, {"e": data}).decode()
    feed(client, [2])
    with opened(client, folder) as consumer:
        drain(consumer)
    assert ids(folder) == ["1", "2"]
    dead = json.loads((folder / "dead" / "feedback" / f"{stream_id}.json").read_text())
    assert dead["stream_id"] == stream_id
    assert dead["reason"]


class Deadly(type(TABLE)):
    """Ends the process when a certain event is read."""

    def decode(self, stream_id, data):
        if b'"13"' in data:
            raise KeyboardInterrupt
        return super().decode(stream_id, data)


def test_an_event_that_ends_the_process_each_time_is_put_aside_and_no_other(client, folder):
    feed(client, range(300))
    deadly = Deadly(**{name: getattr(TABLE, name) for name in TABLE.__dataclass_fields__})
    num_deaths = 0
    while client.xlen(FEEDBACK):
        with opened(client, folder, deadly) as consumer:
            try:
                drain(consumer)
            except KeyboardInterrupt:
                num_deaths += 1
        assert num_deaths <= 5
    assert sorted(map(int, ids(folder))) == [number for number in range(300) if number != 13]
    [dead] = folder.glob("dead/feedback/*.json")
    assert '"13"' in json.loads(dead.read_text())["event"]


def test_a_disk_that_refuses_puts_nothing_aside(client, folder):
    feed(client, range(3))
    folder.mkdir()
    (folder / "feedback").write_text("no folder")
    with opened(client, folder) as consumer:
        for _ in range(7):
            with pytest.raises(OSError, match="feedback"):
                consumer.step()
        (folder / "feedback").unlink()
        drain(consumer)
    assert ids(folder) == numbered(*range(3))
    assert not (folder / "dead").exists()


def test_a_folder_has_one_consumer(server, folder):
    with (
        open_consumer(server.url, folder),
        pytest.raises(ConfigurationError, match="another consumer"),
        open_consumer(server.url, folder),
    ):
        pass


@pytest.mark.parametrize("url", ["redis://127.0.0.1/0?retry_on_timeout=1", "http://127.0.0.1"])
def test_unusable_url_is_refused_with_a_sentence(folder, url):
    with (
        pytest.raises(ConfigurationError, match="the Redis URL of the events role is unusable"),
        open_consumer(url, folder),
    ):
        pass


def old_files(folder, ages_days):
    """A file for each age; the sizes are those of real ones."""
    files = EventFolder(folder)
    for age in ages_days:
        moment = int((datetime.now(UTC) - timedelta(days=age)).timestamp() * 1000)
        row = {**FEEDBACK_EVENT, "item": "7", "event_id": str(age), "stream_id": f"{moment}-0"}
        files.write(TABLE, [dict.fromkeys(TABLE.schema) | row])
    return files


def test_old_files_are_deleted_and_the_newest_of_a_table_stays(folder):
    files = old_files(folder, [40, 20, 5])
    assert [path.parent.name for path in files.expire(30, 1 << 30)] == [
        (datetime.now(UTC) - timedelta(days=40)).date().isoformat()
    ]
    files.expire(1, 1 << 30)
    assert ids(folder) == ["5"]
    assert [path.name for path in (folder / "feedback").iterdir()] == [
        (datetime.now(UTC) - timedelta(days=5)).date().isoformat()
    ]


def test_beyond_its_size_the_oldest_files_go(folder):
    files = old_files(folder, [3, 2, 1, 0])
    size = max(path.stat().st_size for path in folder.glob("feedback/*/*.parquet"))
    files.expire(30, int(2.5 * size))
    assert ids(folder) == ["1", "0"]


def consumers_of(folder):
    """The ids of the consumers that this process has started for a folder and that run their program by now."""
    pids = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended
            pids |= {child.pid} if str(folder) in child.environ().get(ENVIRONMENT, "") else set()
    return pids


async def another_consumer(folder, known=frozenset()):
    """The id of a consumer beside the known ones, as soon as it shows its environment."""
    async with asyncio.timeout(60):
        while not (pids := consumers_of(folder) - known):  # noqa: ASYNC110  (nothing tells of another process)
            await asyncio.sleep(0.02)
    [pid] = pids
    return pid


def test_a_consumer_that_dies_is_started_again(server, folder):
    async def main():
        process = ConsumerProcess(server.url, folder, ConsumerLimits(), "warning")
        watcher = asyncio.create_task(process.watch())
        try:
            first = await another_consumer(folder)
            os.kill(first, signal.SIGKILL)
            await another_consumer(folder, {first})
        finally:
            watcher.cancel()
            process.close()

    asyncio.run(main())
    assert consumers_of(folder) == set()


def test_killed_consumer_loses_nothing_and_writes_nothing_twice(tmp_path):
    account = survive(num_kills=2, rate=1000, longest_s=2.5, folder=tmp_path)
    assert account["events_of_each_kind"] > 0
    for table in ("exposures", "feedback"):
        assert (account[f"{table}_lost"], account[f"{table}_twice"]) == (0, 0)
    assert account["dead"] == 0
