"""Sockets of the engine process and of the HTTP processes, and the count of messages that cannot be read."""

import structlog
import zmq
import zmq.asyncio

from service.engine.protocols import DropReason, EngineObserver
from service.remote.messages import BadMessage

HIGH_WATER = 100_000  # messages; what waits is bounded by the engine's own queue
log = structlog.get_logger()


def open_socket(kind: int) -> zmq.asyncio.Socket:
    socket = zmq.asyncio.Context.instance().socket(kind)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    socket.setsockopt(zmq.LINGER, 0)
    # what is asked while nobody is at the other end is not kept for whoever comes next
    socket.setsockopt(zmq.IMMEDIATE, 1)
    return socket


def count_bad(observer: EngineObserver, error: BadMessage) -> None:
    observer.work_dropped(DropReason.BAD_MESSAGE)
    log.warning("bad_message", error=str(error)[:200])
