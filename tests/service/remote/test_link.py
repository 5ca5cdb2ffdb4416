"""An engine in another process: it answers like an engine of this process, and torn messages harm nobody."""

import asyncio
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio
from hypothesis import given
from hypothesis import strategies as st

from index.exact import ExactIndex
from model.attributes.filters import canonical
from model.catalogue import Catalogue, IdMap
from model.merging import Merged
from model.records import History, QueryVectors, ServingPlan
from model.rules import Boost, Cap, ListRules
from service.engine.arms import ArmSlot, Release
from service.engine.blocks import RequestBlock, ResultBlock
from service.engine.compute import BatchCompute
from service.engine.engine import Engine
from service.engine.messages import EngineLimits, EngineRequest, EngineResult
from service.engine.protocols import SilentObserver
from service.errors import ConfigurationError, DeadlineExceeded, EngineFailed, Overloaded, StaleRelease
from service.reload.reloader import Reloader
from service.remote import follower
from service.remote.blocks import AnswerBlock, AskBlock, BadMessage
from service.remote.engine import RemoteEngine
from service.remote.link import EngineLink
from service.remote.messages import (
    Alive,
    AskMetrics,
    EngineRefusal,
    WorkerReady,
    decode_from_engine,
    decode_from_worker,
    encode,
)
from service.remote.server import EngineServer
from service.stores.vector_codec import CachedVectors

N, D, LIMIT_S, BUNDLE = 50, 4, 20, "b" * 16
ITEMS = np.random.default_rng(3).normal(size=(N, D)).astype(np.float32)
CATALOGUE = Catalogue(IdMap.of(list(range(100, 100 + N))), IdMap.of([1, 2]), np.arange(N))
ROWS = st.integers(1, 2**31 - 1)
REQUESTS = st.builds(
    EngineRequest,
    st.builds(History, st.lists(ROWS, max_size=30).map(tuple), st.integers(0, 2**31 - 1)),
    st.integers(0, 1000),
    st.frozensets(ROWS, max_size=20),
    key=st.none() | st.binary(max_size=40),
)


class LastItem:
    """Encodes a history to the vector of its last item, which it also calls a prompt; item 13 breaks it."""

    def encode(self, histories):
        rows = [history.items[-1] for history in histories]
        if 13 in rows:
            raise RuntimeError("out of memory, say")
        return QueryVectors(ITEMS[np.array(rows) - 1][:, None], np.array(rows)[:, None])


class Counts(SilentObserver):
    """An observer that counts what was dropped."""

    def __init__(self):
        self.dropped = Counter()

    def work_dropped(self, reason, count=1):
        self.dropped[reason] += count


def never(name, folder):
    raise AssertionError("nothing is loaded here")


@asynccontextmanager
async def open_pair(tmp_path, limits=EngineLimits()):
    """A server with one arm and a link to it: (link, server's counts, link's counts, address)."""
    address, heard, told = f"ipc://{tmp_path}/engine", Counts(), Counts()
    engine = Engine(BatchCompute(LastItem(), ExactIndex(ITEMS), ServingPlan()), limits)
    release = Release("only", "comirec", BUNDLE, CATALOGUE, ServingPlan(), "p" * 16, 10, engine)
    arms = {"only": ArmSlot(release)}
    releases = Reloader(arms, {"only": tmp_path}, never)
    server = EngineServer(address, arms, lambda: "of the engine", heard, releases)
    link = EngineLink(address, lambda: "of the worker", told)
    try:
        yield link, engine, heard, told, address
    finally:
        await link.close()
        await server.close()
        await engine.close()


def run(main):
    return asyncio.run(asyncio.wait_for(main(), LIMIT_S))


@given(REQUESTS)
def test_a_request_arrives_as_it_was_sent(request):
    for sent in (
        AskBlock.single(7, "only", BUNDLE, request),
        AskBlock.of(7, "only", BUNDLE, RequestBlock.of(request)),
    ):
        [arrived] = decode_from_worker(encode([sent]))
        assert (arrived.number, arrived.arm, arrived.bundle) == (7, "only", BUNDLE)
        [again] = arrived.block().requests()
        assert replace(again, excluded=frozenset(again.excluded)) == request


def test_rules_arrive_as_they_were_sent():
    boosts = (Boost(0.5, canonical({"language": "en"})), Boost(-0.1, None, "uploaded", 3.0, 9.0))
    rules = ListRules(canonical({"author": {"in": [1, 2]}}), (Cap("author", 2),), boosts, 0.3, "like")
    request = EngineRequest(History((1,)), 5, rules=rules, min_catalogue=7, explain=True)
    [arrived] = decode_from_worker(encode([AskBlock.single(1, "only", BUNDLE, request)]))
    [again] = arrived.block().requests()
    assert replace(again, excluded=frozenset(again.excluded)) == request


@pytest.mark.parametrize("is_bulk", [False, True])
def test_the_lane_of_a_request_and_of_a_block_travels(is_bulk):
    request = EngineRequest(History((1,)), 5)
    request = request.in_bulk() if is_bulk else request
    for message in (
        AskBlock.single(1, "only", BUNDLE, request),
        AskBlock.of(1, "only", BUNDLE, RequestBlock.of(request)),
    ):
        [arrived] = decode_from_worker(encode([message]))
        [again] = arrived.block().requests()
        assert (arrived.block().is_bulk, again.is_bulk) == (is_bulk, is_bulk)


def test_what_is_left_of_a_deadline_travels():
    request = EngineRequest(History((1,)), 5, deadline=time.monotonic() + 3)
    [arrived] = decode_from_worker(encode([AskBlock.single(1, "only", BUNDLE, request)]))
    assert arrived.block().deadline == pytest.approx(request.deadline, abs=0.5)


@pytest.mark.parametrize(("num_queries", "num_hits", "is_cheap"), [(1, 0, False), (3, 7, False), (1, 7, True)])
def test_a_result_arrives_as_it_was_sent(num_queries, num_hits, is_cheap):
    rng = np.random.default_rng(0)
    vectors = CachedVectors(rng.normal(size=(num_queries, D)).astype(np.float32), rng.integers(0, 9, 2))
    merged = Merged(rng.integers(1, N, num_hits), rng.normal(size=num_hits).astype(np.float32), np.arange(num_hits))
    result = EngineResult(vectors, merged, {"encode": 1.5}, True, is_cheap=is_cheap)
    [answer] = decode_from_engine(encode([AnswerBlock.of(3, ResultBlock.of([result]))]))
    arrived = answer.single()
    assert (arrived.timings_ms, arrived.known, arrived.is_cheap) == ({"encode": 1.5}, True, is_cheap)
    assert [outcome.is_cheap for outcome in answer.result().outcomes()] == [is_cheap]
    for name in ("rows", "scores", "sources"):
        np.testing.assert_array_equal(getattr(arrived.merged, name), getattr(merged, name))
    for name in ("vectors", "prompts"):
        np.testing.assert_array_equal(getattr(arrived.vectors, name), getattr(vectors, name))


GOOD = encode([AskBlock.single(1, "only", BUNDLE, EngineRequest(History((1, 2)), 5))])
BAD = {
    "nothing": b"",
    "torn": GOOD[:-3],
    "too long": GOOD + b"x",
    "no message": b"\x93\x01\x02\x03",
    "unknown kind": encode([["dance", 1]]),
    "wrong type": encode([["ask", "one", "only", BUNDLE]]),
    "text that is none": b"\x91\x94\xa9collected\x01\xa2\xff\xff\xff",
    "of the other side": encode([EngineRefusal(1, "overloaded", "full")]),
}


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_no_message_are_refused(name):
    with pytest.raises(BadMessage):
        decode_from_worker(BAD[name])


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data):
    for decode in (decode_from_worker, decode_from_engine):
        with suppress(BadMessage):
            decode(data)


FIELDS = {"number": 1, "lengths": b"\1\0\0\0", "vectors": bytes(4 * D), "num_queries": 1, "rows": bytes(4)}
FIELDS |= {"prompts": b"", "scores": bytes(4), "sources": bytes(2), "known": b"\0", "timings_ms": {}}


@pytest.mark.parametrize("unpack", [AnswerBlock.result, AnswerBlock.single])
@pytest.mark.parametrize(
    "changed",
    [
        {"vectors": b"123"},
        {"num_queries": 3},
        {"rows": bytes(8)},
        {"rows": b""},
        {"lengths": b""},
        {"lengths": b"\2\0\0\0"},
        {"lengths": b"\xff\xff\xff\xff"},
        {"known": b""},
        {"known": b"\0\0"},
        {"cheap": [True, False]},
    ],
    ids=str,
)
def test_answers_whose_arrays_do_not_fit_are_refused(changed, unpack):
    unpack(AnswerBlock(**FIELDS))
    with pytest.raises(BadMessage):
        unpack(AnswerBlock(**FIELDS | changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"items": b"123"},
        {"items": bytes(4)},
        {"lengths": b"\1\0\0\0"},
        {"lengths": b"\xff\xff\xff\xff", "items": b""},
        {"lengths": b"", "items": b"", "own": b"", "users": b"", "limits": b"", "other_lengths": b"", "others": b""},
        {"users": b""},
        {"own": b"\0\0"},
        {"others": bytes(4)},
        {"keys": [b"1", b"2"]},
    ],
    ids=str,
)
def test_blocks_whose_columns_do_not_fit_are_refused(changed):
    good = AskBlock.single(1, "only", BUNDLE, EngineRequest(History((1, 2)), 5))
    assert good.block().size == 1
    with pytest.raises(BadMessage):
        msgspec.structs.replace(good, **changed).block()


def test_a_remote_engine_answers_like_the_engine_itself(tmp_path):
    async def main():
        async with open_pair(tmp_path) as (link, engine, *_):
            remote = RemoteEngine("only", BUNDLE, link)
            requests = [EngineRequest(History((row,)), 5, frozenset({row})) for row in range(20, 50)]
            started = time.monotonic()
            results = await asyncio.gather(*map(remote.ask, requests))
            assert started < remote.last_batch_at <= time.monotonic()
            return results, [await engine.ask(request) for request in requests]

    for there, here in zip(*run(main), strict=True):
        assert there.merged.rows.tolist() == here.merged.rows.tolist()
        assert there.vectors.prompts.tolist() == here.vectors.prompts.tolist()
        assert not there.vectors.vectors.size
        assert there.timings_ms.keys() == here.timings_ms.keys() | {"remote"}


def test_rows_of_another_bundle_are_not_computed(tmp_path):
    async def main():
        async with open_pair(tmp_path) as (link, *_):
            with pytest.raises(StaleRelease):
                await RemoteEngine("only", "c" * 16, link).ask(EngineRequest(History((1,)), 5))

    run(main)


@pytest.mark.parametrize(
    ("arm", "items", "limits", "error"),
    [
        ("only", (13,), EngineLimits(), EngineFailed),
        ("other", (1,), EngineLimits(), EngineFailed),
        ("only", (1,), EngineLimits(max_waiting=0), Overloaded),
    ],
)
def test_errors_arrive_as_what_they_are(tmp_path, arm, items, limits, error):
    async def main():
        async with open_pair(tmp_path, limits) as (link, *_):
            with pytest.raises(error):
                await RemoteEngine(arm, BUNDLE, link).ask(EngineRequest(History(items), 5))

    run(main)


def test_an_engine_that_says_nothing_costs_no_more_than_the_deadline(tmp_path):
    async def main():
        link = EngineLink(f"ipc://{tmp_path}/nobody", str, SilentObserver())
        with pytest.raises(DeadlineExceeded):
            await RemoteEngine("only", BUNDLE, link).ask(
                EngineRequest(History((1,)), 5, deadline=time.monotonic() + 0.05)
            )
        await link.close()

    run(main)


def test_an_engine_that_does_not_say_what_it_serves_is_named_with_the_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(follower, "START_S", 0.05)

    async def main():
        link = EngineLink(f"ipc://{tmp_path}/nobody", str, SilentObserver())
        with pytest.raises(
            ConfigurationError, match="has not told within 0 s what it serves: its own log lines say why"
        ):
            await follower.follow_engine(link)
        await link.close()

    run(main)


def test_the_server_survives_what_it_cannot_read_and_counts_it(tmp_path):
    async def main():
        async with open_pair(tmp_path) as (link, _, heard, _, address):
            stranger = zmq.asyncio.Context.instance().socket(zmq.DEALER)
            stranger.setsockopt(zmq.LINGER, 0)
            stranger.connect(address)
            for data in BAD.values():
                await stranger.send(data)
            await stranger.send_multipart([b"", b"\xc1"])
            while heard.dropped.total() <= len(BAD):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await stranger.send(GOOD)
            [answer] = decode_from_engine(await stranger.recv())
            stranger.close()
            result = await RemoteEngine("only", BUNDLE, link).ask(EngineRequest(History((2,)), 5))
            return heard.dropped, answer.number, len(result.merged.rows)

    assert run(main) == (Counter(bad_message=len(BAD) + 1), 1, 5)


def test_a_link_survives_what_it_cannot_read_and_counts_it(tmp_path):
    async def main():
        socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(f"ipc://{tmp_path}/engine")
        told = Counts()
        link = EngineLink(f"ipc://{tmp_path}/engine", str, told)
        asks = [
            asyncio.create_task(RemoteEngine("only", BUNDLE, link).ask(EngineRequest(History((n,)), 5))) for n in (1, 2)
        ]
        numbers = []
        while len(numbers) < len(asks):
            peer, data = await socket.recv_multipart()
            # among them the question for a sign of life
            numbers += [message.number for message in decode_from_worker(data) if isinstance(message, AskBlock)]
        good = EngineResult(CachedVectors(ITEMS[:1], np.zeros(0, np.int64)), Merged(*np.zeros((3, 0))), {})
        await socket.send_multipart([peer, b"\xc1"])
        # the first answer holds no arrays, the second is whole
        torn = AnswerBlock(**FIELDS | {"number": numbers[0], "rows": b"123"})
        await socket.send_multipart([peer, encode([torn, AnswerBlock.of(numbers[1], ResultBlock.of([good]))])])
        outcomes = await asyncio.gather(*asks, return_exceptions=True)
        await link.close()
        socket.close()
        return [type(outcome) for outcome in outcomes], told.dropped

    assert run(main) == ([EngineFailed, EngineResult], Counter(bad_message=2))


def test_an_engine_process_in_silence_fails_all_and_is_heard_again(tmp_path, monkeypatch):
    monkeypatch.setattr("service.remote.link.LISTEN_S", 0.02)

    async def main():
        async with open_pair(tmp_path) as (link, _, _, _, address):
            engine = RemoteEngine("only", BUNDLE, link)
            await engine.ask(EngineRequest(History((1,)), 5))
            assert engine.problem is None
        # nobody is at the other end
        link = EngineLink(address, str, Counts())
        engine = RemoteEngine("only", BUNDLE, link)
        while engine.problem is None:  # noqa: ASYNC110  (bounded by `run`)
            await asyncio.sleep(0.01)
        with pytest.raises(EngineFailed, match="no sign of life"):
            await engine.ask(EngineRequest(History((1,)), 5))
        metrics = await link.all_metrics()
        await link.close()
        return metrics

    assert run(main) == [""]


def test_an_engine_process_that_ended_is_known_at_once(tmp_path):
    async def main():
        async with open_pair(tmp_path) as (link, _, _, _, address):
            pass
        # one that answered once, and is gone before it is missed
        other = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        other.setsockopt(zmq.LINGER, 0)
        other.bind(address)
        link = EngineLink(address, str, Counts())
        peer, data = await other.recv_multipart()
        [asked] = decode_from_worker(data)
        await other.send_multipart([peer, encode([Alive(asked.number, "one", {})])])
        while not link._incarnation:  # noqa: ASYNC110  (bounded by `run`)
            await asyncio.sleep(0.01)
        other.close()
        failed = None
        while failed is None:
            try:
                async with asyncio.timeout(0.05):
                    await RemoteEngine("only", BUNDLE, link).ask(EngineRequest(History((1,)), 5))
            except TimeoutError:
                # the end of the connection is not seen yet
                continue
            except EngineFailed as error:
                failed = str(error)
        await link.close()
        return failed

    assert run(main) == "the engine process gives no sign of life"


def test_work_whose_caller_left_is_not_computed_in_the_other_process(tmp_path):
    async def main():
        async with open_pair(tmp_path) as (link, engine, *_):
            remote, encode, computed = RemoteEngine("only", BUNDLE, link), engine.compute.encoder.encode, []
            taken, opened = threading.Event(), threading.Event()

            def held(histories):
                computed.extend(history.items for history in histories)
                taken.set()
                assert opened.wait(LIMIT_S)
                return encode(histories)

            engine.compute.encoder.encode = held
            first = asyncio.create_task(remote.ask(EngineRequest(History((2,)), 5)))
            await asyncio.to_thread(taken.wait, LIMIT_S)
            gone = asyncio.create_task(remote.ask(EngineRequest(History((3,)), 5)))
            while engine.num_waiting < 1:  # noqa: ASYNC110  (bounded by `run`)
                await asyncio.sleep(0.01)
            gone.cancel()
            while not all(waiting.answer.done() for waiting in engine._waiting):  # noqa: ASYNC110  (the same)
                await asyncio.sleep(0.01)
            opened.set()
            await first
            await remote.ask(EngineRequest(History((4,)), 5))
            return computed

    assert run(main) == [(2,), (4,)]


def test_metrics_of_all_processes_are_told_to_whoever_asks(tmp_path):
    async def main():
        async with open_pair(tmp_path) as (link, *_):
            await link.tell_ready()
            return await link.all_metrics()

    assert run(main) == ["of the engine", "of the worker"]


def test_kinds_are_told_apart():
    messages = [WorkerReady(), AskMetrics(3)]
    assert decode_from_worker(encode(messages)) == messages
