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

from service.catalogue.state import LiveState
from service.engine.arms import ArmSlot
from service.engine.protocols import EngineObserver
from service.engine.releases import Releases, ReleaseState
from service.errors import EngineFailed, RecallError, ReloadRefused, StaleRelease
from service.remote.messages import (
    AllMetrics,
    AskEngine,
    AskMetrics,
    AskReleases,
    AskReload,
    BadMessage,
    CollectMetrics,
    EngineAnswer,
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
from service.remote.sockets import count_bad, open_socket

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
        changes: LiveState | None = None,
    ) -> None:
        """metrics: this process's own, as a text. `ready` is set once `num_expected` HTTP processes are ready.

        changes: of the catalogue, as far as this process knows them; None = there are none.
        """
        self._changes = changes or LiveState()
        self._arms, self._metrics, self._observer, self._releases = arms, metrics, observer, releases
        self._num_expected = num_expected
        self._socket = open_socket(zmq.ROUTER)
        self._socket.bind(address)
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: set[bytes] = set()  # HTTP processes that said they are ready
        self._collected: dict[int, list[str]] = {}
        self._preparing: dict[int, asyncio.Future[str | None]] = {}
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
            case AskReleases():
                await self._send(peer, TellReleases(message.number, tuple(self._releases.states())))
            case AskReload():
                await self._send(peer, await self._reload(message))
            case ReleasePrepared():
                if (waiting := self._preparing.get(message.number)) and not waiting.done():
                    waiting.set_result(message.problem)

    async def _send(self, peer: bytes, message: FromEngine) -> None:
        await self._socket.send_multipart([peer, encode(message)])

    async def _ask(self, message: AskEngine) -> EngineAnswer | EngineRefusal:
        try:
            if message.arm not in self._arms:
                raise EngineFailed(f"the engine process serves no arm {message.arm[:64]!r}")
            request = message.request()
            if request.min_catalogue:
                await self._changes.wait_for(request.min_catalogue, request.deadline)
            with self._arms[message.arm].lease() as release:
                if message.bundle != release.bundle:
                    raise StaleRelease(f"the arm {message.arm} serves another bundle than {message.bundle[:16]!r}")
                return EngineAnswer.of(message.number, await release.engine.ask(request))
        except RecallError as error:
            return EngineRefusal(message.number, error.code, str(error))

    async def _reload(self, message: AskReload) -> Reloaded | EngineRefusal:
        try:
            return Reloaded(message.number, await self._releases.reload(message.wanted))
        except RecallError as error:
            return EngineRefusal(message.number, error.code, str(error))

    async def prepare(self, coming: ReleaseState) -> None:
        """Returns once every HTTP process could serve this bundle. Raises ReloadRefused when one cannot."""
        numbers = {peer: next(self._numbers) for peer in self._peers}
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
        for peer in self._peers:
            await self._send(peer, ReleasesChanged(tuple(states)))

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
