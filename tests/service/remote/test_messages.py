"""Messages between processes: each comes back as it was, to the side that it is for, and anything else is one error."""

import typing
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.records import History
from service.engine.messages import EngineRequest
from service.engine.releases import Canary, CanaryTerms, ReleaseState, ReloadOutcome, ReloadRequest
from service.errors import ReloadRefused
from service.remote import messages
from service.remote.blocks import AnswerBlock, AskBlock, BadMessage
from service.remote.messages import FromEngine, FromWorker, decode_from_engine, decode_from_worker, encode

STATE = ReleaseState("recgpt", "b", "/bundles/b", "a", None, True, Canary("c", "/bundles/c", CanaryTerms(0.1)))
TO_ENGINE = [
    AskBlock.single(1, "recgpt", "b", EngineRequest(History((1, 2)), 5)),
    messages.ForgetAsk(1),
    messages.AskAlive(2),
    messages.WorkerReady(),
    messages.AskMetrics(3),
    messages.WorkerMetrics(4, "# HELP"),
    messages.AskReleases(5),
    messages.AskReload(6, ReloadRequest("recgpt", canary=CanaryTerms(0.1))),
    messages.ReleasePrepared(7, None),
]
TO_WORKER = [
    AnswerBlock(1, b"", b"", b"", b"", 0, b"", b"", b"", {}),
    messages.Alive(2, "x", {"recgpt": "hangs"}),
    messages.EngineRefusal.of(3, ReloadRefused("why")),
    messages.AllMetrics(4, ["a", "b"]),
    messages.CollectMetrics(5),
    messages.TellReleases(6, (STATE,)),
    messages.ReleasesChanged((STATE, STATE)),
    messages.Reloaded(7, ReloadOutcome("recgpt", "b", None, True, 1.5)),
    messages.PrepareRelease(8, STATE),
]


def test_every_kind_of_message_is_tried_here():
    assert {type(message) for message in TO_ENGINE} == {*typing.get_args(FromWorker)}
    assert {type(message) for message in TO_WORKER} == {*typing.get_args(FromEngine)}


def test_messages_come_back_together_and_in_order():
    assert decode_from_worker(encode(TO_ENGINE)) == TO_ENGINE
    assert decode_from_engine(encode(TO_WORKER)) == TO_WORKER


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: type(message).__name__)
def test_a_message_for_the_other_side_is_bad(message):
    with pytest.raises(BadMessage):
        decode_from_worker(encode([message]))


@given(st.sampled_from(TO_ENGINE), st.integers(0, 500), st.integers(1, 255))
def test_a_changed_byte_is_a_message_or_a_bad_one_and_nothing_else(message, place, change):
    data = bytearray(encode([message]))
    data[place % len(data)] ^= change
    with suppress(BadMessage):
        assert isinstance(decode_from_worker(bytes(data)), list)


@given(st.binary(max_size=50))
def test_any_bytes_are_read_or_bad(data):
    for decode in (decode_from_worker, decode_from_engine):
        with suppress(BadMessage):
            assert isinstance(decode(data), list)


def test_a_refusal_is_the_error_that_it_was():
    error = messages.EngineRefusal.of(3, ReloadRefused("the bundle is torn")).error()
    assert (type(error), str(error)) == (ReloadRefused, "the bundle is torn")


def test_a_message_alone_is_no_list_of_messages():
    with pytest.raises(BadMessage):
        decode_from_worker(msgspec.msgpack.encode(messages.WorkerReady()))
