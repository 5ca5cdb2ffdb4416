"""Sockets that an event loop reads: nothing is kept for whoever comes later, and nothing is left unread."""

import asyncio
from contextlib import contextmanager

import pytest
import zmq

from service.engine.protocols import DropReason, SilentObserver
from service.remote.blocks import BadMessage
from service.remote.sockets import MAX_READ, LoopSocket, count_bad
from tests.waiting import until


class CountingObserver(SilentObserver):
    def __init__(self):
        self.dropped = []

    def work_dropped(self, reason, count=1):
        self.dropped += [reason] * count


@pytest.fixture
def address(tmp_path):
    return f"ipc://{tmp_path}/socket"


@contextmanager
def opened(kind, got, **where):
    socket = LoopSocket(kind, got.append)
    if "bind" in where:
        socket.bind(where["bind"])
    else:
        socket.connect(where["connect"])
    try:
        yield socket
    finally:
        socket.close()


async def sent(socket, *parts):
    """Sends once somebody is at the other end."""
    await until(lambda: socket.send(*parts))


def test_a_message_to_nobody_is_not_taken(address):
    async def scenario():
        with opened(zmq.DEALER, [], connect=address) as socket:
            return socket.send(b"lost")

    assert asyncio.run(scenario()) is False


def test_a_message_is_read_part_by_part_and_answered(address):
    async def scenario():
        asked, answers = [], []
        with opened(zmq.ROUTER, asked, bind=address) as server, opened(zmq.DEALER, answers, connect=address) as client:
            await sent(client, b"one", b"two")
            await until(lambda: asked)
            peer, *parts = asked[0]
            assert parts == [b"one", b"two"]
            await sent(server, peer, b"answer")
            await until(lambda: answers)
            return answers

    assert asyncio.run(scenario()) == [[b"answer"]]


def test_more_messages_than_a_turn_reads_are_all_read_in_order(address):
    count = 5 * MAX_READ

    async def scenario():
        asked = []
        with opened(zmq.ROUTER, asked, bind=address), opened(zmq.DEALER, [], connect=address) as client:
            for number in range(count):
                await sent(client, b"%d" % number)
            await until(lambda: len(asked) == count)
            return [int(parts[1]) for parts in asked]

    assert asyncio.run(scenario()) == [*range(count)]


def test_a_socket_that_a_message_closes_reads_no_further(address):
    async def scenario():
        asked = []
        server = LoopSocket(zmq.ROUTER, lambda parts: (asked.append(parts), server.close()))
        server.bind(address)
        with opened(zmq.DEALER, [], connect=address) as client:
            for _ in range(3):
                await sent(client, b"end")
            await until(lambda: asked)
            await asyncio.sleep(0.05)
        return len(asked)

    assert asyncio.run(scenario()) == 1


def test_a_closed_socket_takes_nothing_and_closes_twice(address):
    async def scenario():
        socket = LoopSocket(zmq.DEALER, [].append)
        socket.connect(address)
        socket.close()
        socket.close()
        return socket.send(b"late")

    assert asyncio.run(scenario()) is False


def test_a_bad_message_is_counted():
    observer = CountingObserver()
    count_bad(observer, BadMessage("torn"))
    assert observer.dropped == [DropReason.BAD_MESSAGE]
