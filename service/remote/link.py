"""An HTTP process's end: it asks the engine process (`RemoteEngine` in engine.py is to the spine what `Engine` is).

The engine process holds weights, indexes and the cache of vectors; an HTTP process holds ids, experiments and
histories. The messages are those of service/remote/messages.py; one that cannot be read is counted and dropped, and the
loop goes on. Nobody hangs: an engine process that gives no sign of life, or was started anew, fails all who wait.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

import msgspec
import structlog
import zmq

from service.engine.blocks import RequestBlock, ResultBlock, until_deadline
from service.engine.messages import EngineRequest, EngineResult
from service.engine.protocols import EngineObserver
from service.engine.releases import ReleaseState, ReloadOutcome, ReloadRequest
from service.errors import EngineFailed, RecallError
from service.remote.blocks import AnswerBlock, AskBlock, BadMessage
from service.remote.messages import (
    Alive,
    AllMetrics,
    AskAlive,
    AskMetrics,
    AskReleases,
    AskReload,
    CollectMetrics,
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
from service.remote.sockets import LoopSocket, count_bad

# between signs of life, and how many may be missing: the proof of a new bundle may hold the other's interpreter for a
# while; a process that has ended is known at once, by its connection
LISTEN_S, MAX_SILENT = 0.3, 6
METRICS_S = 2.0
AGAIN_S = 0.01  # until what nobody took is sent again
SILENT = "the engine process gives no sign of life"
R = TypeVar("R")
T = TypeVar("T", bound=msgspec.Struct)
CALLS = AskBlock | AskAlive | AskMetrics | AskReleases | AskReload  # somebody waits for their answers
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
        self._socket = LoopSocket(zmq.DEALER, self._read)
        self._socket.connect(address)
        self._leaving: list[FromWorker] = []  # in the next round of the loop, together
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[FromEngine]] = {}
        self._asks: set[int] = set()  # those of them that are requests
        self._follower: ReleaseFollower | None = None
        self._preparing: set[asyncio.Task[None]] = set()
        self._is_ready = False  # this process has said so
        self._is_closed = False
        self._incarnation, self._num_silent = "", 0
        self._problems: dict[str, str] = {}
        self._listening = asyncio.create_task(self._listen())

    async def tell_ready(self) -> None:
        """Tells the engine process that this one answers requests; one that is started anew is told again."""
        self._is_ready = True
        self._send(WorkerReady())

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
        """Raises what Engine.ask raises, and StaleRelease where the engine computes for another bundle.

        Vectors come with requests of limit 0 alone.
        """
        message = AskBlock.single(next(self._numbers), arm, bundle, request)
        return self._unpacked((await self._ask(message, request.deadline)).single)

    async def ask_block(self, arm: str, bundle: str, block: RequestBlock) -> ResultBlock:
        """The same for a block; what Engine.ask_block raises."""
        message = AskBlock.of(next(self._numbers), arm, bundle, block)
        return self._unpacked((await self._ask(message, block.deadline)).result)

    async def _ask(self, message: AskBlock, deadline: float) -> AnswerBlock:
        if problem := self.problem(message.arm):
            raise EngineFailed(problem)
        # told apart from reloads and metrics, which may wait longer than an engine's silence
        self._asks.add(message.number)
        try:
            return await self._call(message, AnswerBlock, deadline)
        except asyncio.CancelledError:
            # the caller left: what is not computed yet need not be
            self._send(ForgetAsk(message.number))
            raise
        finally:
            self._asks.discard(message.number)

    def _unpacked(self, unpack: Callable[[], R]) -> R:
        try:
            return unpack()
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
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self.fail_all(EngineFailed("the service is stopping"))
        self._is_closed = True
        self._socket.close()

    async def _listen(self) -> None:
        """Asks for a sign of life at a steady pace; without one, whoever waits is failed, and so is whoever comes."""
        while True:
            # counted first and set back by an answer: a call that never returns counts as well
            self._num_silent += 1
            if self._num_silent > MAX_SILENT:
                self.fail_all(EngineFailed(SILENT), patient_too=False)
            with suppress(TimeoutError, EngineFailed):
                async with asyncio.timeout(LISTEN_S):
                    self._hear(await self._call(AskAlive(next(self._numbers)), Alive))
            await asyncio.sleep(LISTEN_S)

    def _hear(self, alive: Alive) -> None:
        self._num_silent, self._problems = 0, alive.problems
        # "" before the first sign of life: nobody was asked yet by another one
        if self._incarnation not in ("", alive.incarnation):
            log.warning("engine_process_is_another")
            # what was asked of the one before is answered by nobody
            self.fail_all(EngineFailed("the engine process was started anew"))
            if self._is_ready:
                self._send(WorkerReady())
        self._incarnation = alive.incarnation

    async def _call(
        self,
        message: CALLS,
        kind: type[T],
        deadline: float = float("inf"),
    ) -> T:
        """The answer to one message; whoever is cancelled leaves nothing behind.

        Raises EngineFailed in silence, and DeadlineExceeded: the engine tells when a deadline passes, this is for an
        engine that tells nothing.
        """
        if self._num_silent > MAX_SILENT and not isinstance(message, AskAlive):
            raise EngineFailed(SILENT)
        future = self._asked[message.number] = asyncio.get_running_loop().create_future()
        try:
            self._send(message)
            answer = await until_deadline(future, deadline)
        finally:
            self._asked.pop(message.number, None)
        if isinstance(answer, EngineRefusal):
            raise answer.error()
        # numbers are given once: only a faulty process answers with another kind
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
        messages = [m for m in leaving if not isinstance(m, CALLS) or m.number in self._asked]
        if not messages or self._is_closed or self._socket.send(encode(messages)):
            return
        if self._incarnation:
            # an engine process that has ended is known at once: whoever was asked before it ended waits in vain
            self._num_silent = MAX_SILENT + 1
            self.fail_all(EngineFailed(SILENT), patient_too=False)
            messages = [m for m in messages if not isinstance(m, AskBlock | ForgetAsk)]
        # what is no request is kept for whoever comes; before the first came, requests are kept too
        self._leaving = messages
        if messages:
            asyncio.get_running_loop().call_later(AGAIN_S, self._flush)

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
