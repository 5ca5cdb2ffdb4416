"""An HTTP process's end: it asks the engine process through `RemoteEngine`, which is to the spine what `Engine` is.

The engine process holds weights, indexes and the cache of vectors; an HTTP process holds ids, experiments and
histories. The messages are those of service/remote/messages.py; one that cannot be read is counted and dropped, and the
loop goes on. Nobody hangs: an engine that is gone fails all who wait, and its HTTP processes end
(service/http/workers.py).
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec
import zmq

from service.engine.blocks import RequestBlock, ResultBlock, until_deadline
from service.engine.messages import EngineRequest, EngineResult
from service.engine.protocols import EngineObserver
from service.engine.releases import ReleaseState, ReloadOutcome, ReloadRequest
from service.errors import EngineFailed, RecallError, StaleRelease
from service.remote.blocks import AnswerBlock, AskBlock, BadMessage
from service.remote.messages import (
    AllMetrics,
    AskMetrics,
    AskReleases,
    AskReload,
    CollectMetrics,
    EngineRefusal,
    FromEngine,
    FromWorker,
    PrepareRelease,
    ReleasePrepared,
    ReleasesChanged,
    Reloaded,
    TellReleases,
    WorkerMetrics,
    WorkerReady,
    decode_from_engine,
    encode,
)
from service.remote.sockets import LoopSocket, count_bad

R = TypeVar("R")
T = TypeVar("T", bound=msgspec.Struct)


class ReleaseFollower(Protocol):
    """Keeps an HTTP process's releases those of the engine process (service/remote/follower.py)."""

    async def prepare(self, coming: ReleaseState) -> None:
        """Reads what is needed to serve a bundle. Raises ConfigurationError with the reason."""

    def follow(self, states: Sequence[ReleaseState]) -> None:
        """Serves from now on what the engine process serves, where it is prepared."""

    async def catch_up(self, arm: str, stale: str) -> None:
        """Returns once another bundle than `stale` is served, or none could be read."""


class EngineLink:
    """An HTTP process's end: requests out, answers in. Belongs to one event loop."""

    def __init__(self, address: str, metrics: Callable[[], str], observer: EngineObserver) -> None:
        """metrics: this process's own, as a text."""
        self._metrics, self._observer = metrics, observer
        self._socket = LoopSocket(zmq.DEALER, self._read)
        self._socket.connect(address)
        self._leaving: list[FromWorker] = []  # in the next round of the loop, together
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[FromEngine]] = {}
        self._follower: ReleaseFollower | None = None
        self._preparing: set[asyncio.Task[None]] = set()

    async def tell_ready(self) -> None:
        """Tells the engine process that this one answers requests."""
        self._send(WorkerReady())

    async def all_metrics(self) -> list[str]:
        """The metrics of every process, as texts."""
        return (await self._call(AskMetrics(next(self._numbers)), AllMetrics)).texts

    def subscribe(self, follower: ReleaseFollower) -> None:
        """Makes every further change of the engine process's releases known to `follower`."""
        self._follower = follower

    async def releases(self) -> Sequence[ReleaseState]:
        """The bundles that the engine process serves now."""
        return (await self._call(AskReleases(next(self._numbers)), TellReleases)).states

    async def reload(self, wanted: ReloadRequest) -> ReloadOutcome:
        """Asks the engine process for another bundle. Raises what Reloader.reload raises."""
        return (await self._call(AskReload(next(self._numbers), wanted), Reloaded)).outcome

    async def catch_up(self, arm: str, stale: str) -> None:
        """Returns once this process knows what the engine process serves instead of `stale`."""
        if self._follower:
            await self._follower.catch_up(arm, stale)

    async def ask(self, arm: str, bundle: str, request: EngineRequest) -> EngineResult:
        """Raises what Engine.ask raises, and StaleRelease where the engine computes for another bundle.

        Vectors come with requests of limit 0 alone.
        """
        message = AskBlock.single(next(self._numbers), arm, bundle, request)
        return self._unpacked((await self._call(message, AnswerBlock, request.deadline)).single)

    async def ask_block(self, arm: str, bundle: str, block: RequestBlock) -> ResultBlock:
        """The same for a block; what Engine.ask_block raises."""
        message = AskBlock.of(next(self._numbers), arm, bundle, block)
        return self._unpacked((await self._call(message, AnswerBlock, block.deadline)).result)

    def _unpacked(self, unpack: Callable[[], R]) -> R:
        try:
            return unpack()
        except BadMessage as error:
            count_bad(self._observer, error)
            raise EngineFailed("the engine's answer cannot be read") from error

    def fail_all(self, error: Exception) -> None:
        for future in self._asked.values():
            if not future.done():
                future.set_exception(error)

    async def close(self) -> None:
        for task in self._preparing:
            task.cancel()
        self.fail_all(EngineFailed("the service is stopping"))
        self._socket.close()

    async def _call(
        self, message: AskBlock | AskMetrics | AskReleases | AskReload, kind: type[T], deadline: float = float("inf")
    ) -> T:
        """The answer to one message; whoever is cancelled leaves nothing behind.

        Raises DeadlineExceeded: the engine tells when a deadline passes, this is for an engine that tells nothing.
        """
        future = self._asked[message.number] = asyncio.get_running_loop().create_future()
        try:
            self._send(message)
            answer = await until_deadline(future, deadline)
        finally:
            self._asked.pop(message.number, None)
        if isinstance(answer, EngineRefusal):
            raise answer.error()
        if not isinstance(answer, kind):
            raise EngineFailed("the engine process answered something else than was asked")
        return answer

    def _send(self, message: FromWorker) -> None:
        """Sends it in the next round of the loop, with all that is sent in this one."""
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self._flush)
        self._leaving.append(message)

    def _flush(self) -> None:
        leaving, self._leaving = self._leaving, []
        # callers who have gone meanwhile ask nothing
        messages = [m for m in leaving if not isinstance(m, AskBlock) or m.number in self._asked]
        if messages and not self._socket.send(encode(messages)):
            for message in messages:
                if isinstance(message, AskBlock) and not (future := self._asked[message.number]).done():
                    future.set_exception(EngineFailed("the engine process takes no more messages"))

    def _read(self, parts: Sequence[bytes]) -> None:
        try:
            messages = decode_from_engine(b"".join(parts))
        except BadMessage as error:
            count_bad(self._observer, error)
            return
        for message in messages:
            self._take(message)

    def _take(self, message: FromEngine) -> None:
        match message:
            case CollectMetrics():
                self._send(WorkerMetrics(message.number, self._metrics()))
            case PrepareRelease():
                # answers are read meanwhile: the ids of a large catalogue take a second
                task = asyncio.create_task(self._prepare(message))
                self._preparing.add(task)
                task.add_done_callback(self._preparing.discard)
            case ReleasesChanged():
                if self._follower:
                    self._follower.follow(message.states)
            case _:
                future = self._asked.get(message.number)
                if future and not future.done():
                    future.set_result(message)

    async def _prepare(self, message: PrepareRelease) -> None:
        try:
            if self._follower:
                await self._follower.prepare(message.coming)
            problem = None
        except RecallError as error:
            problem = str(error)
        self._send(ReleasePrepared(message.number, problem))


class RemoteEngine:
    """One arm's engine as an HTTP process sees it; weights, index and cache live in the engine process."""

    def __init__(self, arm: str, bundle: str, link: EngineLink) -> None:
        """bundle: the one whose rows are asked in."""
        self._arm, self._bundle, self._link = arm, bundle, link
        self.last_batch_at = float("-inf")

    async def ask(self, request: EngineRequest) -> EngineResult:
        """Raises what Engine.ask raises; StaleRelease once this process knows the bundle that is served instead."""
        started = time.monotonic()
        result = await self._answered(self._link.ask(self._arm, self._bundle, request))
        return result._replace(timings_ms={**result.timings_ms, "remote": self._since(started)})

    async def ask_block(self, block: RequestBlock) -> ResultBlock:
        """The same for a block; what Engine.ask_block raises."""
        started = time.monotonic()
        result = await self._answered(self._link.ask_block(self._arm, self._bundle, block))
        return result._replace(timings_ms={**result.timings_ms, "remote": self._since(started)})

    async def _answered(self, answer: Awaitable[R]) -> R:
        try:
            return await answer
        except StaleRelease:
            await self._link.catch_up(self._arm, self._bundle)
            raise

    def _since(self, started: float) -> float:
        """Milliseconds; an answer is a sign of life."""
        self.last_batch_at = time.monotonic()
        return 1e3 * (self.last_batch_at - started)

    async def close(self) -> None:
        return
