"""The engine process's end: requests of HTTP processes in, answers of this process's engines out.

A message that cannot be read is counted and dropped, and the loop goes on. A request names the bundle whose rows it is
written in, and an engine of another bundle refuses it (StaleRelease): rows are never read by the wrong catalogue,
whichever process learns first of a reload.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from secrets import token_hex

import zmq

from service.catalogue.state import LiveState
from service.engine.arms import ArmSlot, Tenure
from service.engine.blocks import ResultBlock
from service.engine.engine import Engine
from service.engine.protocols import EngineObserver
from service.engine.releases import Releases, ReleaseState
from service.errors import EngineFailed, RecallError, ReloadRefused, StaleRelease
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
    decode_from_worker,
    encode,
)
from service.remote.sockets import LoopSocket, count_bad

GONE_S = 3.0  # an HTTP process asks several times a second whether this one lives
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
        changes: LiveState | None = None,
    ) -> None:
        """metrics: this process's own, as a text.

        changes: of the catalogue, as far as this process knows them; None = there are none.
        """
        self._changes = changes or LiveState()
        self._arms, self._metrics, self._observer, self._releases = arms, metrics, observer, releases
        self._incarnation = token_hex(8)
        self._socket = LoopSocket(zmq.ROUTER, self._read)
        self._socket.bind(address)
        self._leaving: dict[bytes, list[FromEngine]] = {}  # by peer: what it is told in the next round of the loop
        self._tasks: set[asyncio.Task[None]] = set()
        # requests that are not answered, by who asked and the number of the message
        self._asks: dict[tuple[bytes, int], Reply | asyncio.Task[None]] = {}
        self._peers: dict[bytes, float] = {}  # HTTP processes that said they are ready, and when one was last heard
        self._collected: dict[int, list[str]] = {}
        self._preparing: dict[int, asyncio.Future[str | None]] = {}
        self._numbers = itertools.count()

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
            case AskBlock() if message.min_catalogue > self._changes.current.number:
                # waits in a task, since the log of changes is read by this very loop
                key = (peer, message.number)
                task = self._asks[key] = asyncio.create_task(self._ask_later(peer, message))
                self._keep(task)
            case AskBlock():
                self._ask(peer, message)
            case ForgetAsk():
                if asked := self._asks.pop((peer, message.number), None):
                    asked.cancel()
            case AskAlive():
                self.send(peer, self._live(peer, message.number))
            case WorkerReady():
                self._peers[peer] = time.monotonic()
            case WorkerMetrics():
                self._collected.get(message.number, []).append(message.text)
            case AskReleases():
                self.send(peer, TellReleases(message.number, tuple(self._releases.states())))
            case ReleasePrepared():
                if (waiting := self._preparing.get(message.number)) and not waiting.done():
                    waiting.set_result(message.problem)
            case AskMetrics() | AskReload():
                self._keep(asyncio.create_task(self._answer(peer, message)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _live(self, peer: bytes, number: int) -> Alive:
        """The sign of life for an HTTP process, which has given one of its own by asking."""
        if peer in self._peers:
            self._peers[peer] = time.monotonic()
        problems = {name: slot.current.engine.problem for name, slot in self._arms.items()}
        return Alive(number, self._incarnation, {name: problem for name, problem in problems.items() if problem})

    def _living(self) -> list[bytes]:
        """The HTTP processes that were heard of lately; the others ended or hang, and their successors are new ones."""
        since = time.monotonic() - GONE_S
        self._peers = {peer: heard for peer, heard in self._peers.items() if heard >= since}
        return [*self._peers]

    async def _answer(self, peer: bytes, message: AskMetrics | AskReload) -> None:
        if isinstance(message, AskMetrics):
            self.send(peer, AllMetrics(message.number, await self._collect()))
        else:
            self.send(peer, await self._reload(message))

    def answer(self, peer: bytes, number: int, message: FromEngine) -> None:
        """Sends the outcome of a request, which is then forgotten."""
        self._asks.pop((peer, number), None)
        self.send(peer, message)

    def send(self, peer: bytes, message: FromEngine) -> None:
        """Sends it in the next round of the loop, with all that this peer is told in this one."""
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self._flush)
        self._leaving.setdefault(peer, []).append(message)

    def _flush(self) -> None:
        leaving, self._leaving = self._leaving, {}
        for peer, messages in leaving.items():
            self._socket.send(peer, encode(messages))

    async def _ask_later(self, peer: bytes, message: AskBlock) -> None:
        """The same once this process knows the change that the message demands, for as long as it has time."""
        left = float("inf") if message.left_s is None else message.left_s
        try:
            await self._changes.wait_for(message.min_catalogue, asyncio.get_running_loop().time() + left)
        except RecallError as error:
            self.answer(peer, message.number, EngineRefusal.of(message.number, error))
        else:
            self._ask(peer, message)

    def _ask(self, peer: bytes, message: AskBlock) -> None:
        """Hands a block to its engine, which tells the outcome to a `Reply`; no task, no future."""
        try:
            block = message.block()
            tenure, engine = self._engine_of(message)
        except BadMessage as error:
            count_bad(self._observer, error)
            refusal = EngineRefusal.of(message.number, EngineFailed("the request cannot be read"))
            self.answer(peer, message.number, refusal)
        except RecallError as error:
            self.answer(peer, message.number, EngineRefusal.of(message.number, error))
        else:
            reply = self._asks[peer, message.number] = Reply(self, peer, message, tenure)
            try:
                engine.submit(block, reply)
            except RecallError as error:
                reply.set_exception(error)

    def _engine_of(self, message: AskBlock) -> tuple[Tenure, Engine]:
        """Raises EngineFailed for an arm that is not here, StaleRelease for a bundle that is not served."""
        if message.arm not in self._arms:
            raise EngineFailed(f"the engine process serves no arm {message.arm[:64]!r}")
        tenure = self._arms[message.arm].lease_of(message.bundle)
        if tenure is None:
            raise StaleRelease(f"the arm {message.arm} serves another bundle than {message.bundle[:16]!r}")
        if not isinstance(tenure.release.engine, Engine):
            raise EngineFailed(f"the engine process serves no arm {message.arm[:64]!r}")
        return tenure, tenure.release.engine

    async def _reload(self, message: AskReload) -> Reloaded | EngineRefusal:
        try:
            return Reloaded(message.number, await self._releases.reload(message.wanted))
        except RecallError as error:
            return EngineRefusal.of(message.number, error)

    async def prepare(self, coming: ReleaseState) -> None:
        """Returns once every HTTP process could serve this bundle. Raises ReloadRefused when one cannot."""
        numbers = {peer: next(self._numbers) for peer in self._living()}
        answers = {peer: asyncio.get_running_loop().create_future() for peer in numbers}
        self._preparing |= {number: answers[peer] for peer, number in numbers.items()}
        try:
            for peer, number in numbers.items():
                self.send(peer, PrepareRelease(number, coming))
            async with asyncio.timeout(PREPARE_S):
                problems = await self._problems_of(answers)
        except TimeoutError:
            problems = [f"an HTTP process has not read its ids within {PREPARE_S:.0f} s"]
        finally:
            for number in numbers.values():
                del self._preparing[number]
        if problems:
            raise ReloadRefused(f"arm {coming.arm}: bundle {coming.bundle}: {problems[0]}")

    async def _problems_of(self, answers: Mapping[bytes, "asyncio.Future[str | None]"]) -> list[str]:
        """The problems that HTTP processes tell, once all have answered that are still there.

        One that has ended meanwhile is not waited for: the process in its place reads what is served then.
        """
        while waiting := [answers[peer] for peer in self._living() if peer in answers and not answers[peer].done()]:
            await asyncio.wait(waiting, timeout=GONE_S / 4)
        return [problem for answer in answers.values() if answer.done() and (problem := answer.result())]

    async def tell(self, states: Sequence[ReleaseState]) -> None:
        """Tells every HTTP process what is served now."""
        for peer in self._living():
            self.send(peer, ReleasesChanged(tuple(states)))

    async def _collect(self) -> list[str]:
        """The metrics of every process, as texts; whoever asked adds them up."""
        number = next(self._numbers)
        # the list is known before anybody is asked: an answer in the same round of the loop finds it
        texts = self._collected[number] = [self._metrics()]
        peers = self._living()
        for peer in peers:
            self.send(peer, CollectMetrics(number))
        with suppress(TimeoutError):
            async with asyncio.timeout(COLLECT_S):
                while len(texts) <= len(peers):  # noqa: ASYNC110  (bounded, once a scrape)
                    await asyncio.sleep(0.005)
        del self._collected[number]
        return texts


class Reply:
    """Takes the outcome of a block and sends it; until then the release that computes it is in use.

    Cancelled, it takes none: whoever asked has gone.
    """

    __slots__ = ("_message", "_peer", "_server", "_tenure")

    def __init__(self, server: EngineServer, peer: bytes, message: AskBlock, tenure: Tenure) -> None:
        self._server, self._peer, self._message = server, peer, message
        self._tenure: Tenure | None = tenure
        tenure.enter()

    def done(self) -> bool:
        """Tells if it was sent, or if nobody waits for it any more."""
        return self._tenure is None

    def set_result(self, result: ResultBlock, /) -> None:
        self._send(AnswerBlock.of(self._message.number, result, self._message.wants_vectors))

    def set_exception(self, error: RecallError, /) -> None:
        self._send(EngineRefusal.of(self._message.number, error))

    def _send(self, message: FromEngine) -> None:
        if self._tenure:
            self.cancel()
            self._server.answer(self._peer, self._message.number, message)

    def cancel(self) -> None:
        if self._tenure:
            self._tenure.leave()
            self._tenure = None
