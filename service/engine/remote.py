"""Engines in another process: several HTTP processes ask one that computes, over ZeroMQ.

The engine process holds weights, indexes and the cache of vectors; an HTTP process holds ids, experiments and
histories, and asks through `RemoteEngine`, which is to the spine what `Engine` is. The messages are those of
service/engine/remote_messages.py; one that cannot be read is counted and dropped, and the loops go on. Nobody hangs: an
engine that is gone fails all who wait, and its HTTP processes end (service/http/workers.py).
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

import msgspec
import structlog
import zmq
import zmq.asyncio

from service.engine.arms import ArmSlot
from service.engine.messages import EngineRequest, EngineResult
from service.engine.protocols import DropReason, EngineObserver
from service.engine.remote_messages import (
    AllMetrics,
    AskEngine,
    AskMetrics,
    BadMessage,
    CollectMetrics,
    EngineAnswer,
    EngineRefusal,
    FromEngine,
    FromWorker,
    WorkerMetrics,
    WorkerReady,
    decode_from_engine,
    decode_from_worker,
    encode,
)
from service.errors import DeadlineExceeded, EngineFailed, RecallError

COLLECT_S = 1.0  # an HTTP process that does not tell its metrics within is left out
HIGH_WATER = 100_000  # messages; what waits is bounded by the engine's own queue
T = TypeVar("T", bound=msgspec.Struct)
log = structlog.get_logger()


def open_socket(kind: int) -> zmq.asyncio.Socket:
    socket = zmq.asyncio.Context.instance().socket(kind)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    socket.setsockopt(zmq.LINGER, 0)
    return socket


def count_bad(observer: EngineObserver, error: BadMessage) -> None:
    observer.work_dropped(DropReason.BAD_MESSAGE)
    log.warning("bad_message", error=str(error)[:200])


class EngineServer:
    """Answers the requests of HTTP processes with this process's engines. Belongs to one event loop."""

    def __init__(
        self,
        address: str,
        arms: Mapping[str, ArmSlot],
        metrics: Callable[[], str],
        observer: EngineObserver,
        num_expected: int,
    ) -> None:
        """metrics: this process's own, as a text. `ready` is set once `num_expected` HTTP processes are ready."""
        self._arms, self._metrics, self._observer = arms, metrics, observer
        self._num_expected = num_expected
        self._socket = open_socket(zmq.ROUTER)
        self._socket.bind(address)
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: set[bytes] = set()  # HTTP processes that said they are ready
        self._collected: dict[int, list[str]] = {}
        self._numbers = itertools.count()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Answers until it is cancelled."""
        while True:
            peer, *parts = await self._socket.recv_multipart()
            try:
                message = decode_from_worker(b"".join(parts))
            except BadMessage as error:
                count_bad(self._observer, error)
                continue
            task = asyncio.create_task(self._handle(peer, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._socket.close()

    async def _handle(self, peer: bytes, message: FromWorker) -> None:
        match message:
            case AskEngine():
                await self._send(peer, await self._ask(message))
            case WorkerReady():
                self._peers.add(peer)
                if len(self._peers) >= self._num_expected:
                    self.ready.set()
            case AskMetrics():
                await self._send(peer, AllMetrics(message.number, await self._collect()))
            case WorkerMetrics():
                if message.number in self._collected:
                    self._collected[message.number].append(message.text)

    async def _send(self, peer: bytes, message: FromEngine) -> None:
        await self._socket.send_multipart([peer, encode(message)])

    async def _ask(self, message: AskEngine) -> EngineAnswer | EngineRefusal:
        try:
            if message.arm not in self._arms:
                raise EngineFailed(f"the engine process serves no arm {message.arm[:64]!r}")
            with self._arms[message.arm].lease() as release:
                return EngineAnswer.of(message.number, await release.engine.ask(message.request()))
        except RecallError as error:
            return EngineRefusal(message.number, error.code, str(error))

    async def _collect(self) -> list[str]:
        """The metrics of every process, as texts; whoever asked adds them up."""
        number = next(self._numbers)
        texts = self._collected[number] = [self._metrics()]
        for peer in self._peers:
            await self._send(peer, CollectMetrics(number))
        with suppress(TimeoutError):
            async with asyncio.timeout(COLLECT_S):
                while len(texts) <= len(self._peers):  # noqa: ASYNC110  (bounded, once a scrape)
                    await asyncio.sleep(0.005)
        del self._collected[number]
        return texts


class EngineLink:
    """An HTTP process's end: requests out, answers in. Belongs to one event loop."""

    def __init__(self, address: str, metrics: Callable[[], str], observer: EngineObserver) -> None:
        """metrics: this process's own, as a text."""
        self._metrics, self._observer = metrics, observer
        self._socket = open_socket(zmq.DEALER)
        self._socket.connect(address)
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[FromEngine]] = {}
        self._reader = asyncio.create_task(self._read())

    async def tell_ready(self) -> None:
        """Tells the engine process that this one answers requests."""
        await self._send(WorkerReady())

    async def all_metrics(self) -> list[str]:
        """The metrics of every process, as texts."""
        return (await self._call(AskMetrics(next(self._numbers)), AllMetrics)).texts

    async def ask(self, arm: str, request: EngineRequest) -> EngineResult:
        """Raises what Engine.ask raises."""
        message = AskEngine.of(next(self._numbers), arm, request)
        answer = await self._call(message, EngineAnswer)
        try:
            return answer.result()
        except BadMessage as error:
            count_bad(self._observer, error)
            raise EngineFailed("the engine's answer cannot be read") from error

    def fail_all(self, error: Exception) -> None:
        for future in self._asked.values():
            if not future.done():
                future.set_exception(error)

    async def close(self) -> None:
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        self.fail_all(EngineFailed("the service is stopping"))
        self._socket.close()

    async def _call(self, message: AskEngine | AskMetrics, kind: type[T]) -> T:
        """The answer to one message; whoever is cancelled leaves nothing behind."""
        future = self._asked[message.number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(message)
            answer = await future
        finally:
            self._asked.pop(message.number, None)
        if isinstance(answer, EngineRefusal):
            raise answer.error()
        if not isinstance(answer, kind):
            raise EngineFailed("the engine process answered something else than was asked")
        return answer

    async def _send(self, message: FromWorker) -> None:
        await self._socket.send(encode(message))

    async def _read(self) -> None:
        while True:
            data = await self._socket.recv()
            try:
                message = decode_from_engine(data)
            except BadMessage as error:
                count_bad(self._observer, error)
                continue
            if isinstance(message, CollectMetrics):
                await self._send(WorkerMetrics(message.number, self._metrics()))
                continue
            future = self._asked.get(message.number)
            if future and not future.done():
                future.set_result(message)


class RemoteEngine:
    """One arm's engine as an HTTP process sees it; weights, index and cache live in the engine process."""

    def __init__(self, arm: str, link: EngineLink) -> None:
        self._arm, self._link = arm, link
        self.last_batch_at = float("-inf")

    async def ask(self, request: EngineRequest) -> EngineResult:
        """Raises what Engine.ask raises."""
        started = time.monotonic()
        deadline = None if request.deadline == float("inf") else request.deadline
        try:
            # the engine tells when a deadline passes; this is for an engine that tells nothing
            async with asyncio.timeout_at(deadline):
                result = await self._link.ask(self._arm, request)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the answer was ready") from None
        self.last_batch_at = time.monotonic()
        result.timings_ms["remote"] = 1e3 * (self.last_batch_at - started)
        return result

    async def close(self) -> None:
        return
