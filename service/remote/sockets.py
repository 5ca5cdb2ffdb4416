"""A socket of a process that the event loop reads, and the count of messages that cannot be read."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

import structlog
import zmq

from service.engine.protocols import DropReason, EngineObserver
from service.remote.blocks import BadMessage

HIGH_WATER = 100_000  # messages; what waits is bounded by the engine's own queue
MAX_READ = 64  # messages in one turn of the loop, which others want too
log = structlog.get_logger()


class LoopSocket:
    """A ZeroMQ socket that one event loop watches; zmq.asyncio's future a message costs more than the message."""

    def __init__(self, kind: int, receive: Callable[[Sequence[bytes]], None]) -> None:
        """receive: called with the parts of each message."""
        self._receive, self._loop = receive, asyncio.get_running_loop()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        # IMMEDIATE: what is asked while nobody is at the other end is not kept for whoever comes next
        options = ((zmq.SNDHWM, HIGH_WATER), (zmq.RCVHWM, HIGH_WATER), (zmq.LINGER, 0), (zmq.IMMEDIATE, 1))
        for option, value in options:
            self._socket.setsockopt(option, value)
        self._descriptor = cast(int, self._socket.getsockopt(zmq.FD))

    def bind(self, address: str) -> None:
        self._socket.bind(address)
        self._watch()

    def connect(self, address: str) -> None:
        self._socket.connect(address)
        self._watch()

    def send(self, *parts: bytes) -> bool:
        """False where the message was not taken: nobody is at the other end, too many wait, or the socket is closed."""
        if self._socket.closed:
            return False
        is_taken = False
        with suppress(zmq.Again):
            self._socket.send_multipart(parts, zmq.NOBLOCK)
            is_taken = True
        # the descriptor tells of changes alone, and sending may have swallowed one
        if self._has_messages():
            self._loop.call_soon(self._read)
        return is_taken

    def close(self) -> None:
        if not self._socket.closed:
            self._loop.remove_reader(self._descriptor)
            self._socket.close()

    def _watch(self) -> None:
        self._loop.add_reader(self._descriptor, self._read)
        self._loop.call_soon(self._read)

    def _read(self) -> None:
        for _ in range(MAX_READ):
            # a message may have closed it
            if self._socket.closed or not self._has_messages():
                return
            self._receive(self._socket.recv_multipart(zmq.NOBLOCK))
        self._loop.call_soon(self._read)

    def _has_messages(self) -> bool:
        # asking for its events is what makes ZeroMQ arm the descriptor again
        return bool(cast(int, self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


def count_bad(observer: EngineObserver, error: BadMessage) -> None:
    observer.work_dropped(DropReason.BAD_MESSAGE)
    log.warning("bad_message", error=str(error)[:200])
