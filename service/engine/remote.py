"""Engines in another process: several HTTP processes ask one that computes, over ZeroMQ.

The engine process holds weights, indexes and the cache of vectors; an HTTP process holds ids, experiments and
histories, and asks through `RemoteEngine`, which is to the spine what `Engine` is. Messages are MessagePack maps,
arrays as bytes. A question keeps its deadline: what is left of it travels. Nobody hangs: an engine that is gone fails
all who wait, and its HTTP processes end (service/http/workers.py).
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import ormsgpack
import zmq
import zmq.asyncio
from numpy.typing import NDArray

from model.merging import Merged
from model.records import History
from service.engine.engine import Engine
from service.engine.messages import EngineRequest, EngineResult
from service.errors import DeadlineExceeded, EngineFailed, Overloaded, RecallError
from service.stores.vector_cache import VectorCache
from service.stores.vector_codec import CachedVectors

Message = dict[str, Any]
ERRORS: Mapping[str, type[RecallError]] = {one.code: one for one in (Overloaded, DeadlineExceeded, EngineFailed)}
COLLECT_S = 1.0  # an HTTP process that does not tell its metrics within is left out
HIGH_WATER = 100_000  # messages; what waits is bounded by the engine's own queue


def pack_question(arm: str, request: EngineRequest) -> Message:
    left = request.deadline - time.monotonic()
    return {
        "arm": arm,
        "items": np.array(request.history.items, dtype="<i8").tobytes(),
        "user": request.history.user,
        "limit": request.limit,
        "excluded": np.fromiter(request.excluded, "<i8", len(request.excluded)).tobytes(),
        "left_s": None if left == float("inf") else left,
        "key": request.key,
    }


def unpack_question(message: Message) -> EngineRequest:
    left = message["left_s"]
    return EngineRequest(
        History(tuple(integers(message["items"]).tolist()), message["user"]),
        message["limit"],
        frozenset(integers(message["excluded"]).tolist()),
        deadline=float("inf") if left is None else time.monotonic() + left,
        key=message["key"],
    )


def pack_found(found: EngineResult) -> Message:
    vectors, merged = found.vectors, found.merged
    return {
        "vectors": vectors.vectors.astype("<f4").tobytes(),
        "shape": vectors.vectors.shape,
        "prompts": vectors.prompts.astype("<i8").tobytes(),
        "rows": merged.rows.astype("<i8").tobytes(),
        "scores": merged.scores.astype("<f4").tobytes(),
        "sources": merged.sources.astype("<i8").tobytes(),
        "times": found.timings_ms,
        "known": found.known,
    }


def unpack_found(message: Message) -> EngineResult:
    vectors = np.frombuffer(message["vectors"], "<f4").reshape(message["shape"])
    scores: NDArray[np.float32] = np.frombuffer(message["scores"], "<f4")
    merged = Merged(integers(message["rows"]), scores, integers(message["sources"]))
    return EngineResult(
        CachedVectors(vectors, integers(message["prompts"])), merged, message["times"], message["known"]
    )


def integers(data: bytes) -> NDArray[np.int64]:
    return np.frombuffer(data, "<i8")


class EngineServer:
    """Answers the questions of HTTP processes with this process's engines. Belongs to one event loop."""

    def __init__(self, engines: Mapping[str, Engine], address: str, metrics: Callable[[], str]) -> None:
        self._engines, self._metrics = engines, metrics
        self._socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: dict[bytes, float] = {}  # HTTP processes that said they are ready
        self._collected: dict[int, list[str]] = {}
        self._numbers = itertools.count()
        self.ready = asyncio.Event()
        self.num_expected = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        handlers = {"ask": self._ask, "ready": self._ready, "metrics": self._tell_metrics, "collected": self._collect}
        while True:
            peer, data = await self._socket.recv_multipart()
            message = ormsgpack.unpackb(data)
            task = asyncio.create_task(handlers[message["op"]](peer, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._socket.close()

    async def _send(self, peer: bytes, message: Message) -> None:
        await self._socket.send_multipart([peer, ormsgpack.packb(message)])

    async def _ask(self, peer: bytes, message: Message) -> None:
        try:
            found = await self._engines[message["arm"]].ask(unpack_question(message))
            answer = pack_found(found)
        except RecallError as error:
            answer = {"code": error.code, "message": str(error)}
        await self._send(peer, {"n": message["n"], **answer})

    async def _ready(self, peer: bytes, _: Message) -> None:
        self._peers[peer] = time.monotonic()
        if len(self._peers) >= self.num_expected:
            self.ready.set()

    async def _tell_metrics(self, peer: bytes, message: Message) -> None:
        """The metrics of every process, as texts; who asks adds them up."""
        number = next(self._numbers)
        texts = self._collected[number] = [self._metrics()]
        for other in self._peers:
            await self._send(other, {"op": "collect", "n": number})
        with suppress(TimeoutError):
            async with asyncio.timeout(COLLECT_S):
                while len(texts) <= len(self._peers):  # noqa: ASYNC110  (bounded, once a scrape)
                    await asyncio.sleep(0.005)
        del self._collected[number]
        await self._send(peer, {"n": message["n"], "texts": texts})

    async def _collect(self, _: bytes, message: Message) -> None:
        if message["n"] in self._collected:
            self._collected[message["n"]].append(message["text"])


class EngineLink:
    """An HTTP process's end: questions out, answers in. Belongs to one event loop."""

    def __init__(self, address: str) -> None:
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._reader = asyncio.create_task(self._read())
        self.metrics: Callable[[], str] = str

    async def ready(self) -> None:
        """Tells the engine process that this one answers requests."""
        await self._socket.send(ormsgpack.packb({"op": "ready"}))

    async def call(self, op: str, message: Message) -> Message:
        """The answer to one message; whoever is cancelled leaves nothing behind."""
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send(ormsgpack.packb({"op": op, "n": number, **message}))
            answer: Message = await future
            return answer
        finally:
            self._asked.pop(number, None)

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

    async def _read(self) -> None:
        while True:
            message = ormsgpack.unpackb(await self._socket.recv())
            if message.get("op") == "collect":
                answer = {"op": "collected", "n": message["n"], "text": self.metrics()}
                await self._socket.send(ormsgpack.packb(answer))
                continue
            future = self._asked.get(message["n"])
            if future and not future.done():
                future.set_result(message)


class RemoteEngine:
    """One arm's engine as an HTTP process sees it."""

    encoder = index = None  # they live in the engine process, and so do their metrics

    def __init__(self, arm: str, link: EngineLink) -> None:
        self._arm, self._link = arm, link
        self.cache: VectorCache | None = None  # never used here: vectors are cached beside the engine
        self.dropped: Counter[str] = Counter()
        self.last_batch_at = float("-inf")
        self.on_batch: Callable[[int, int], None] = lambda _size, _waiting: None
        self.on_times: Callable[[dict[str, float]], None] = lambda _times_ms: None

    async def ask(self, request: EngineRequest) -> EngineResult:
        """Raises what Engine.ask raises."""
        started = time.monotonic()
        answer = await self._within(request.deadline, self._link.call("ask", pack_question(self._arm, request)))
        if "code" in answer:
            raise ERRORS.get(answer["code"], EngineFailed)(answer["message"])
        self.last_batch_at = time.monotonic()
        found = unpack_found(answer)
        found.timings_ms["remote"] = 1e3 * (self.last_batch_at - started)
        return found

    @staticmethod
    async def _within(deadline: float, call: Awaitable[Message]) -> Message:
        try:
            # the engine tells when a deadline passes; this is for an engine that tells nothing
            async with asyncio.timeout_at(None if deadline == float("inf") else deadline):
                return await call
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the answer was ready") from None

    async def close(self) -> None:
        return
