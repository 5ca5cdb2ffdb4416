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
from functools import partial
from secrets import token_hex

import zmq

from service.engine.arms import ArmSlot
from service.engine.protocols import EngineObserver
from service.engine.releases import Releases, ReleaseState
from service.errors import EngineFailed, RecallError, ReloadRefused, StaleRelease
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
    decode_from_worker,
    encode,
)
from service.remote.sockets import count_bad, open_socket

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
    ) -> None:
        """metrics: this process's own, as a text."""
        self._arms, self._metrics, self._observer, self._releases = arms, metrics, observer, releases
        self._incarnation = token_hex(8)
        self._socket = open_socket(zmq.ROUTER)
        self._socket.bind(address)
        self._tasks: dict[tuple[bytes, object], asyncio.Task[None]] = {}  # by who asked, and the number of the message
        self._peers: dict[bytes, float] = {}  # HTTP processes that said they are ready, and when one was last heard
        self._collected: dict[int, list[str]] = {}
        self._preparing: dict[int, asyncio.Future[str | None]] = {}
        self._numbers = itertools.count()

    async def run(self) -> None:
        """Answers until it is cancelled."""
        while True:
            peer, *parts = await self._socket.recv_multipart()
            try:
                message = decode_from_worker(b"".join(parts))
            except BadMessage as error:
                count_bad(self._observer, error)
                continue
            # numbers are those of the HTTP process that asks: no two of its messages under way have the same
            key = (peer, message.number if isinstance(message, AskEngine) else object())
            task = self._tasks[key] = asyncio.create_task(self._handle(peer, message))
            task.add_done_callback(partial(self._forget, key))

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._socket.close()

    async def _handle(self, peer: bytes, message: FromWorker) -> None:
        match message:
            case AskEngine():
                await self._send(peer, await self._ask(message))
            case ForgetAsk():
                self._cancel(peer, message.number)
            case AskAlive():
                await self._send(peer, self._live(peer, message.number))
            case WorkerReady():
                self._peers[peer] = time.monotonic()
            case AskMetrics():
                await self._send(peer, AllMetrics(message.number, await self._collect()))
            case WorkerMetrics():
                self._collected.get(message.number, []).append(message.text)
            case AskReleases():
                await self._send(peer, TellReleases(message.number, tuple(self._releases.states())))
            case AskReload():
                await self._send(peer, await self._reload(message))
            case ReleasePrepared():
                if (waiting := self._preparing.get(message.number)) and not waiting.done():
                    waiting.set_result(message.problem)

    def _cancel(self, peer: bytes, number: int) -> None:
        if task := self._tasks.get((peer, number)):
            task.cancel()

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

    def _forget(self, key: tuple[bytes, object], _: object) -> None:
        self._tasks.pop(key, None)

    async def _send(self, peer: bytes, message: FromEngine) -> None:
        await self._socket.send_multipart([peer, encode(message)])

    async def _ask(self, message: AskEngine) -> EngineAnswer | EngineRefusal:
        try:
            if message.arm not in self._arms:
                raise EngineFailed(f"the engine process serves no arm {message.arm[:64]!r}")
            with self._arms[message.arm].lease() as release:
                if message.bundle != release.bundle:
                    raise StaleRelease(f"the arm {message.arm} serves another bundle than {message.bundle[:16]!r}")
                return EngineAnswer.of(message.number, await release.engine.ask(message.request()))
        except RecallError as error:
            return EngineRefusal(message.number, error.code, str(error))

    async def _reload(self, message: AskReload) -> Reloaded | EngineRefusal:
        try:
            return Reloaded(message.number, await self._releases.reload(message.wanted))
        except RecallError as error:
            return EngineRefusal(message.number, error.code, str(error))

    async def prepare(self, coming: ReleaseState) -> None:
        """Returns once every HTTP process could serve this bundle. Raises ReloadRefused when one cannot."""
        numbers = {peer: next(self._numbers) for peer in self._living()}
        answers = [asyncio.get_running_loop().create_future() for _ in numbers]
        self._preparing |= zip(numbers.values(), answers, strict=True)
        try:
            for peer, number in numbers.items():
                await self._send(peer, PrepareRelease(number, coming))
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
        for peer in self._living():
            await self._send(peer, ReleasesChanged(tuple(states)))

    async def _collect(self) -> list[str]:
        """The metrics of every process, as texts; whoever asked adds them up."""
        number = next(self._numbers)
        texts = self._collected[number] = [self._metrics()]
        peers = self._living()
        for peer in peers:
            await self._send(peer, CollectMetrics(number))
        with suppress(TimeoutError):
            async with asyncio.timeout(COLLECT_S):
                while len(texts) <= len(peers):  # noqa: ASYNC110  (bounded, once a scrape)
                    await asyncio.sleep(0.005)
        del self._collected[number]
        return texts
