"""An HTTP process's end: it asks the engine process through `RemoteEngine`, which is to the spine what `Engine` is.

The engine process holds weights, indexes and the cache of vectors; an HTTP process holds ids, experiments and
histories. The messages are those of service/remote/messages.py; one that cannot be read is counted and dropped, and the
loop goes on. Nobody hangs: an engine process that gives no sign of life, or was started anew, fails all who wait.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

import msgspec
import structlog
import zmq

from service.engine.messages import EngineRequest, EngineResult
from service.engine.protocols import EngineObserver
from service.engine.releases import ReleaseState, ReloadOutcome, ReloadRequest
from service.errors import DeadlineExceeded, EngineFailed, RecallError, StaleRelease
from service.remote.messages import (
    Alive,
    AllMetrics,
    AskAlive,
    AskEngine,
    AskMetrics,
    AskReleases,
    AskReload,
    BadMessage,
    CollectMetrics,
    EngineAnswer,
    EngineRefusal,
    ForgetAsk,
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
from service.remote.sockets import count_bad, open_socket

# between signs of life, and how many may be missing: the proof of a new bundle may hold the other's interpreter for a
# while; a process that has ended is known at once, by its connection
LISTEN_S, MAX_SILENT = 0.3, 6
METRICS_S = 2.0
SILENT = "the engine process gives no sign of life"
T = TypeVar("T", bound=msgspec.Struct)
log = structlog.get_logger()


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
        self._socket = open_socket(zmq.DEALER)
        self._socket.connect(address)
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[FromEngine]] = {}
        self._asks: set[int] = set()  # those of them that are requests
        self._follower: ReleaseFollower | None = None
        self._preparing: set[asyncio.Task[None]] = set()
        self._is_ready = False  # this process has said so
        self._incarnation, self._num_silent = "", 0
        self._problems: dict[str, str] = {}
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._listen())]

    async def tell_ready(self) -> None:
        """Tells the engine process that this one answers requests; one that is started anew is told again."""
        self._is_ready = True
        await self._send(WorkerReady())

    async def all_metrics(self) -> list[str]:
        """The metrics of every process, as texts; of this one alone where the engine process does not answer."""
        with suppress(TimeoutError, EngineFailed):
            async with asyncio.timeout(METRICS_S):
                return (await self._call(AskMetrics(next(self._numbers)), AllMetrics)).texts
        return [self._metrics()]

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
        """Raises what Engine.ask raises, and StaleRelease where the engine computes for another bundle."""
        if problem := self.problem(arm):
            raise EngineFailed(problem)
        message = AskEngine.of(next(self._numbers), arm, bundle, request)
        try:
            answer = await self._call(message, EngineAnswer)
        except asyncio.CancelledError:
            # the caller left, or its deadline passed: what is not computed yet need not be
            self._forget(message.number)
            raise
        try:
            return answer.result()
        except BadMessage as error:
            count_bad(self._observer, error)
            raise EngineFailed("the engine's answer cannot be read") from error

    def problem(self, arm: str) -> str | None:
        """The reason why the engine process computes nothing for an arm now; None where it works."""
        return SILENT if self._num_silent > MAX_SILENT else self._problems.get(arm)

    def fail_all(self, error: Exception, patient_too: bool = True) -> None:
        """Fails whoever waits; patient_too: also who waits for more than a list, such as a reload."""
        for number, future in self._asked.items():
            if not future.done() and (patient_too or number in self._asks):
                future.set_exception(error)

    async def close(self) -> None:
        for task in self._preparing:
            task.cancel()
        for own in self._tasks:
            own.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.fail_all(EngineFailed("the service is stopping"))
        self._socket.close()

    def _forget(self, number: int) -> None:
        task = asyncio.create_task(self._try_to_forget(number))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    async def _try_to_forget(self, number: int) -> None:
        with suppress(EngineFailed):
            await self._send_at_once(ForgetAsk(number))

    async def _listen(self) -> None:
        """Asks for a sign of life at a steady pace; without one, whoever waits is failed, and so is whoever comes."""
        while True:
            self._num_silent += 1
            if self._num_silent > MAX_SILENT:
                self.fail_all(EngineFailed(SILENT), patient_too=False)
            with suppress(TimeoutError, EngineFailed):
                async with asyncio.timeout(LISTEN_S):
                    await self._hear(await self._call(AskAlive(next(self._numbers)), Alive))
            await asyncio.sleep(LISTEN_S)

    async def _hear(self, alive: Alive) -> None:
        self._num_silent, self._problems = 0, alive.problems
        if self._incarnation not in ("", alive.incarnation):
            log.warning("engine_process_is_another")
            # what was asked of the one before is answered by nobody
            self.fail_all(EngineFailed("the engine process was started anew"))
            if self._is_ready:
                await self._send(WorkerReady())
        self._incarnation = alive.incarnation

    async def _call(self, message: AskEngine | AskAlive | AskMetrics | AskReleases | AskReload, kind: type[T]) -> T:
        """The answer to one message; whoever is cancelled leaves nothing behind. Raises EngineFailed in silence."""
        if self._num_silent > MAX_SILENT and not isinstance(message, AskAlive):
            raise EngineFailed(SILENT)
        future = self._asked[message.number] = asyncio.get_running_loop().create_future()
        try:
            if isinstance(message, AskEngine):
                self._asks.add(message.number)
                await (self._send_at_once(message) if self._incarnation else self._send(message))
            else:
                await self._send(message)
            answer = await future
        finally:
            self._asked.pop(message.number, None)
            self._asks.discard(message.number)
        if isinstance(answer, EngineRefusal):
            raise answer.error()
        if not isinstance(answer, kind):
            raise EngineFailed("the engine process answered something else than was asked")
        return answer

    async def _send_at_once(self, message: FromWorker) -> None:
        """Raises EngineFailed where nobody is at the other end: an engine process that has ended is known at once."""
        try:
            await self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            # whoever was asked before it ended waits in vain
            self._num_silent = MAX_SILENT + 1
            self.fail_all(EngineFailed(SILENT), patient_too=False)
            raise EngineFailed(SILENT) from None

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
            match message:
                case CollectMetrics():
                    await self._send(WorkerMetrics(message.number, self._metrics()))
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
        await self._send(ReleasePrepared(message.number, problem))


class RemoteEngine:
    """One arm's engine as an HTTP process sees it; weights, index and cache live in the engine process."""

    def __init__(self, arm: str, bundle: str, link: EngineLink) -> None:
        """bundle: the one whose rows are asked in."""
        self._arm, self._bundle, self._link = arm, bundle, link
        self.last_batch_at = float("-inf")

    @property
    def problem(self) -> str | None:
        return self._link.problem(self._arm)

    async def ask(self, request: EngineRequest) -> EngineResult:
        """Raises what Engine.ask raises; StaleRelease once this process knows the bundle that is served instead."""
        started = time.monotonic()
        deadline = None if request.deadline == float("inf") else request.deadline
        try:
            # the engine tells when a deadline passes; this is for an engine that tells nothing
            async with asyncio.timeout_at(deadline):
                result = await self._ask(request)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the answer was ready") from None
        self.last_batch_at = time.monotonic()
        result.timings_ms["remote"] = 1e3 * (self.last_batch_at - started)
        return result

    async def _ask(self, request: EngineRequest) -> EngineResult:
        try:
            return await self._link.ask(self._arm, self._bundle, request)
        except StaleRelease:
            await self._link.catch_up(self._arm, self._bundle)
            raise

    async def close(self) -> None:
        return
