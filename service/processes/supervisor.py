"""Starts the engine process and the HTTP processes, and starts each again that died or hangs.

    recall serve --http-workers 2     this process: supervises, owns the embedded redis-server, holds the port
      |- service.processes.engine     bundles, indexes, cache, compute threads
      |- service.processes.http       one of several that share the port

It computes nothing and imports no model, so that there is little in it that could break. A process that ended is
started again at once, then after doubling pauses where it does not stay; one whose heartbeat stops for HANG_S is
killed. While the engine process is away the HTTP processes answer by the fallback. Before the service has once been
ready, a process that ends is a refusal to start.
"""

import asyncio
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import structlog
from pydantic import SecretStr

from service.embedded import with_redis
from service.errors import ConfigurationError
from service.processes.heartbeat import ENVIRONMENT, Pulse
from service.settings import Settings
from service.subprocesses import child_environment, module_command

ENGINE, HTTP = "engine", "http"
LOOK_S, HANG_S = 0.1, 5.0
STOP_S = 12.0  # for requests under way, then for what a process has to write
STEADY_S, MAX_PAUSE_S = 10.0, 30.0
log = structlog.get_logger()


@dataclass
class Child:
    """One process under supervision, with those that took its place."""

    kind: str  # the module of service/processes that it runs
    told: dict[str, object]  # as JSON in its environment
    num_starts: int = 0
    _process: "subprocess.Popen[bytes] | None" = None
    _pulse: Pulse = field(default_factory=Pulse)
    _started_at: float = 0.0
    _pause_s: float = 0.0
    _again_at: float | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def is_ready(self) -> bool:
        return self._pulse.is_ready

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def sentence(self) -> str:
        """The reason why it ended, in its own words where it left some."""
        status = self._process.poll() if self._process else None
        return self._pulse.refusal or f"the {self.kind} process ended with status {status}; see the log above"

    def start(self) -> None:
        if self.num_starts:
            self._pulse.close()
            self._pulse = Pulse()
        told = json.dumps(self.told | {"heartbeat": self._pulse.writer})
        command, environment = (
            module_command(f"service.processes.{self.kind}"),
            child_environment(**{ENVIRONMENT: told}),
        )
        self._process = subprocess.Popen(command, env=environment, pass_fds=[self._pulse.writer])  # noqa: S603
        self._pulse.close_writer()
        self._started_at, self._again_at = time.monotonic(), None
        self.num_starts += 1

    def look(self) -> None:
        """Starts it again where it ended, kills it where it hangs."""
        self._pulse.look(LOOK_S)
        if not self.has_ended:
            if self.is_ready and self._pulse.silent_s > HANG_S:
                log.error("process_hangs", kind=self.kind, pid=self.pid, silent_s=round(self._pulse.silent_s, 1))
                # killed once, not at every look until it has ended
                self._pulse.forgive()
                self.signal(signal.SIGKILL)
            return
        now = time.monotonic()
        if self._again_at is None:
            # a process that has run for a while begins anew at once; one that falls at start waits longer each time
            is_steady = now - self._started_at > STEADY_S
            self._pause_s = 0.0 if is_steady else min(MAX_PAUSE_S, max(1.0, 2 * self._pause_s))
            self._again_at = now + self._pause_s
            log.error("process_ended", kind=self.kind, pid=self.pid, reason=self.sentence, again_in_s=self._pause_s)
        if now >= self._again_at:
            self.start()

    def hear(self) -> None:
        """Reads its heartbeat, and nothing more."""
        self._pulse.look(LOOK_S)

    def signal(self, number: signal.Signals) -> None:
        if self._process and not self.has_ended:
            self._process.send_signal(number)


def run_supervised(settings: Settings, port: int, on_start: Callable[[], None]) -> None:
    """Serves until it is told to stop. Raises ConfigurationError when the service cannot start."""
    asyncio.run(_run(settings, port, on_start))


async def _run(settings: Settings, port: int, on_start: Callable[[], None]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        # owned by the process that lives longest: an engine that is started again finds it as it was
        settings = await with_redis(settings, stack)
        address = f"ipc://{stack.enter_context(tempfile.TemporaryDirectory())}/engine"
        told = told_to_children(settings, port, address)
        engine, https = Child(ENGINE, told), [Child(HTTP, told) for _ in range(settings.http_workers)]
        stack.push_async_callback(stop, [engine])
        stack.push_async_callback(stop, https)
        for group in ([engine], https):
            await start(group, stopping)
        if not stopping.is_set():
            on_start()
        while not stopping.is_set():
            for child in (engine, *https):
                child.look()
            await _pause(stopping)


async def start(children: Sequence[Child], stopping: asyncio.Event) -> None:
    """Returns once all are ready, or told to stop. Raises ConfigurationError where one ends before."""
    for child in children:
        child.start()
    while not stopping.is_set() and not all(child.is_ready for child in children):
        for child in children:
            # asked before its pipe is read: its last words are in there
            has_ended = child.has_ended
            child.hear()
            if has_ended:
                raise ConfigurationError(child.sentence)
        await _pause(stopping)


async def _pause(stopping: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), LOOK_S)


async def stop(children: Sequence[Child]) -> None:
    """Ends processes: told to, and killed where they have not within STOP_S. The event loop goes on meanwhile."""
    for child in children:
        child.signal(signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while any(not child.has_ended for child in children) and time.monotonic() < until:  # noqa: ASYNC110  (no event)
        await asyncio.sleep(LOOK_S)
    for child in children:
        child.signal(signal.SIGKILL)


def told_to_children(settings: Settings, port: int, address: str) -> dict[str, object]:
    """The settings in plain JSON, keys included, and the address of the engine process."""
    secrets = {name: value for name, value in settings if isinstance(value, SecretStr)}
    given = settings.model_dump(mode="json", exclude={*secrets}) | {"port": port}
    given |= {name: value.get_secret_value() for name, value in secrets.items()}
    return {"settings": given, "engine": address}
