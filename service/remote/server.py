"""The engine process's end: requests of HTTP processes in, answers of this process's engines out.

A message that cannot be read is counted and dropped, and the loop goes on. A request names the bundle whose rows it is
written in, and an engine of another bundle refuses it (StaleRelease): rows are never read by the wrong catalogue,
whichever process learns first of a reload.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import zmq

from service.engine.arms import ArmSlot, Tenure
from service.engine.blocks import ResultBlock
from service.engine.engine import Engine
from service.engine.protocols import EngineObserver
from service.engine.releases import Releases, ReleaseState
from service.errors import EngineFailed, RecallError, ReloadRefused, StaleRelease
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
    decode_from_worker,
    encode,
)
from service.remote.sockets import LoopSocket, count_bad

COLLECT_S = 1.0  # an HTTP process that does not tell its metrics within is left out
PREPARE_S = 60.0  # an HTTP process that has not read a bundle's ids within does not get it


class EngineServer:
    """Answers the requests of HTTP processes with this process's engines. Belongs to one event loop."""

    def __init__(
        self,
        address: str,
        arms: Mapping[str, ArmSlot],
        metrics: Callable[[], str],
        observer: EngineObserver,
        releases: Releases,
        num_expected: int,
    ) -> None:
        """metrics: this process's own, as a text. `ready` is set once `num_expected` HTTP processes are ready."""
        self._arms, self._metrics, self._observer, self._releases = arms, metrics, observer, releases
        self._num_expected = num_expected
        self._socket = LoopSocket(zmq.ROUTER, self._read)
        self._socket.bind(address)
        self._leaving: dict[bytes, list[FromEngine]] = {}  # by peer: what it is told in the next round of the loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: set[bytes] = set()  # HTTP processes that said they are ready
        self._collected: dict[int, list[str]] = {}
        self._preparing: dict[int, asyncio.Future[str | None]] = {}
        self._numbers = itertools.count()
        self.ready = asyncio.Event()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._socket.close()

    def _read(self, parts: Sequence[bytes]) -> None:
        peer, *rest = parts
        try:
            messages = decode_from_worker(b"".join(rest))
        except BadMessage as error:
            count_bad(self._observer, error)
            return
        for message in messages:
            self._take(peer, message)

    def _take(self, peer: bytes, message: FromWorker) -> None:
        match message:
            case AskBlock():
                self._ask(peer, message)
            case WorkerReady():
                self._peers.add(peer)
                if len(self._peers) >= self._num_expected:
                    self.ready.set()
            case WorkerMetrics():
                if message.number in self._collected:
                    self._collected[message.number].append(message.text)
            case AskReleases():
                self.send(peer, TellReleases(message.number, tuple(self._releases.states())))
            case ReleasePrepared():
                if (waiting := self._preparing.get(message.number)) and not waiting.done():
                    waiting.set_result(message.problem)
            case AskMetrics() | AskReload():
                task = asyncio.create_task(self._answer(peer, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _answer(self, peer: bytes, message: AskMetrics | AskReload) -> None:
        if isinstance(message, AskMetrics):
            self.send(peer, AllMetrics(message.number, await self._collect()))
        else:
            self.send(peer, await self._reload(message))

    def send(self, peer: bytes, message: FromEngine) -> None:
        """Sends it in the next round of the loop, with all that this peer is told in this one."""
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self._flush)
        self._leaving.setdefault(peer, []).append(message)

    def _flush(self) -> None:
        leaving, self._leaving = self._leaving, {}
        for peer, messages in leaving.items():
            self._socket.send(peer, encode(messages))

    def _ask(self, peer: bytes, message: AskBlock) -> None:
        """Hands a block to its engine, which tells the outcome to a `Reply`; no task, no future."""
        try:
            block = message.block()
            tenure, engine = self._engine_of(message)
        except BadMessage as error:
            count_bad(self._observer, error)
            self.send(peer, EngineRefusal.of(message.number, EngineFailed("the request cannot be read")))
        except RecallError as error:
            self.send(peer, EngineRefusal.of(message.number, error))
        else:
            reply = Reply(self, peer, message, tenure)
            try:
                engine.submit(block, reply)
            except RecallError as error:
                reply.set_exception(error)

    def _engine_of(self, message: AskBlock) -> tuple[Tenure, Engine]:
        """Raises EngineFailed for an arm that is not here, StaleRelease for a bundle that is not served."""
        tenure = self._arms[message.arm].lease() if message.arm in self._arms else None
        if tenure is None or not isinstance(tenure.release.engine, Engine):
            raise EngineFailed(f"the engine process serves no arm {message.arm[:64]!r}")
        if message.bundle != tenure.release.bundle:
            raise StaleRelease(f"the arm {message.arm} serves another bundle than {message.bundle[:16]!r}")
        return tenure, tenure.release.engine

    async def _reload(self, message: AskReload) -> Reloaded | EngineRefusal:
        try:
            return Reloaded(message.number, await self._releases.reload(message.wanted))
        except RecallError as error:
            return EngineRefusal.of(message.number, error)

    async def prepare(self, coming: ReleaseState) -> None:
        """Returns once every HTTP process could serve this bundle. Raises ReloadRefused when one cannot."""
        numbers = {peer: next(self._numbers) for peer in self._peers}
        answers = [asyncio.get_running_loop().create_future() for _ in numbers]
        self._preparing |= zip(numbers.values(), answers, strict=True)
        try:
            for peer, number in numbers.items():
                self.send(peer, PrepareRelease(number, coming))
            async with asyncio.timeout(PREPARE_S):
                problems = [problem for problem in await asyncio.gather(*answers) if problem]
        except TimeoutError:
            problems = [f"an HTTP process has not read its ids within {PREPARE_S:.0f} s"]
        finally:
            for number in numbers.values():
                del self._preparing[number]
        if problems:
            raise ReloadRefused(f"arm {coming.arm}: bundle {coming.bundle}: {problems[0]}")

    async def tell(self, states: Sequence[ReleaseState]) -> None:
        """Tells every HTTP process what is served now."""
        for peer in self._peers:
            self.send(peer, ReleasesChanged(tuple(states)))

    async def _collect(self) -> list[str]:
        """The metrics of every process, as texts; whoever asked adds them up."""
        number = next(self._numbers)
        texts = self._collected[number] = [self._metrics()]
        for peer in self._peers:
            self.send(peer, CollectMetrics(number))
        with suppress(TimeoutError):
            async with asyncio.timeout(COLLECT_S):
                while len(texts) <= len(self._peers):  # noqa: ASYNC110  (bounded, once a scrape)
                    await asyncio.sleep(0.005)
        del self._collected[number]
        return texts


class Reply:
    """Takes the outcome of a block and sends it; until then the release that computes it is in use."""

    __slots__ = ("_message", "_peer", "_server", "_tenure")

    def __init__(self, server: EngineServer, peer: bytes, message: AskBlock, tenure: Tenure) -> None:
        self._server, self._peer, self._message = server, peer, message
        self._tenure: Tenure | None = tenure
        tenure.enter()

    def done(self) -> bool:
        """Tells if it was sent."""
        return self._tenure is None

    def set_result(self, result: ResultBlock, /) -> None:
        self._send(AnswerBlock.of(self._message.number, result, self._message.wants_vectors))

    def set_exception(self, error: RecallError, /) -> None:
        self._send(EngineRefusal.of(self._message.number, error))

    def _send(self, message: FromEngine) -> None:
        if self._tenure:
            self._tenure.leave()
            self._tenure = None
            self._server.send(self._peer, message)
