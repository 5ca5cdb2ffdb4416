"""A real service process to measure: starts `recall serve`, waits until it is ready, reads what it spends, ends it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from service.subprocesses import start_watchdog

STOP_LIMIT_S = 60.0  # the service takes 24 s at most; a machine that others use may not
WORKER, ENGINE, CONSUMER = "service.processes.http", "service.processes.engine", "service.consumer.process"


@dataclass(frozen=True)
class Target:
    """A running service and its processes."""

    url: str
    pid: int | None = None  # None: somebody else's, of which only the answers are seen
    start_s: float = 0.0  # from the process's start until it was ready
    log: Path | None = None  # what it has said; there while it runs
    ca: Path | None = None  # authorities that vouch for an https address; None = the system's

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or (443 if self.is_tls else 80)

    @property
    def host(self) -> str:
        return httpx.URL(self.url).host

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https:")

    def usage(self) -> dict[str, float]:
        """CPU seconds so far: `http` is the thread of the event loop, `compute` all others.

        `redis` is the embedded server, `events` the consumer of its events. With HTTP processes `http` is all of them,
        and `engine` the event loop of the process that they ask.
        """
        if self.pid is None:
            return {}
        children = psutil.Process(self.pid).children(recursive=True)
        process = self._computing(children)
        # the main thread, whose id is the process's, is the one that runs the event loop
        main = sum(t.user_time + t.system_time for t in process.threads() if t.id == process.pid)
        whole = process.cpu_times()
        children = [child for child in children if child != process]
        workers = [child for child in children if is_worker(child)]
        # of the whole process: threads that have ended count too
        spent = {"engine" if workers else "http": main, "compute": whole.user + whole.system - main}
        for child in children:
            times = child.cpu_times()
            part = "http" if child in workers else "events" if is_running(CONSUMER, child) else "redis"
            spent[part] = spent.get(part, 0.0) + times.user + times.system
        return spent

    @property
    def num_http(self) -> int:
        """Processes that read and write HTTP."""
        children = psutil.Process(self.pid).children() if self.pid else []
        return max(1, sum(is_worker(child) for child in children))

    @property
    def memory_mb(self) -> float:
        """Resident, of the process that computes."""
        if self.pid is None:
            return 0.0
        return float(self._computing(psutil.Process(self.pid).children()).memory_info().rss / 2**20)

    def _computing(self, children: Sequence[psutil.Process]) -> psutil.Process:
        """The process that computes: the service's own, or the child that its HTTP processes ask."""
        return next((child for child in children if is_running(ENGINE, child)), psutil.Process(self.pid))


def is_worker(process: psutil.Process) -> bool:
    return is_running(WORKER, process)


def is_running(module: str, process: psutil.Process) -> bool:
    """True where the process runs this module, or has this word in its command line; False for one that has ended.

    False too for one just started, in the moment in which it is not yet its own program.
    """
    try:
        return module in process.cmdline()
    except psutil.Error:
        return False


def children_running(module: str, pid: int | None = None) -> list[psutil.Process]:
    """The children of a process, or of this one, that run a module."""
    return [child for child in psutil.Process(pid).children() if is_running(module, child)]


def is_listening(process: psutil.Process) -> bool:
    """True where the process takes connections: one that the supervisor has just started does not yet."""
    try:
        return any(connection.status == psutil.CONN_LISTEN for connection in process.net_connections("tcp"))
    except psutil.Error:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class Checkout:
    """A command that is `recall`, and the folder it runs in: by default the one that measures."""

    command: Sequence[str] = (sys.executable, "-m", "recall")
    folder: Path | None = None


@contextlib.contextmanager
def serving(arms: dict[str, Path], *options: str, checkout: Checkout = Checkout()) -> Iterator[Target]:
    """A ready service with these bundles; log and state (but for `--state-dir`) are in a temporary folder.

    Of the log only warnings, but for `--log-level`.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        pairs = [word for name, path in arms.items() for word in ("--arm", f"{name}={path}")]
        command = [*checkout.command, "serve", *pairs, "--port", str(port), *options]
        for name, value in (("--log-level", "warning"), ("--state-dir", folder)):
            command += () if name in options else (name, value)
        log = Path(folder) / "log"
        with log.open("wb") as sink:
            started = time.monotonic()
            process = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=checkout.folder)  # noqa: S603  (our own)
            # whoever measures may be killed
            watchdog = start_watchdog(process.pid)
            try:
                wait_ready(f"http://127.0.0.1:{port}", process, log)
                yield Target(f"http://127.0.0.1:{port}", process.pid, time.monotonic() - started, log)
            finally:
                watchdog.kill()
                watchdog.communicate()
                # as Ctrl-C would: the service ends its own children
                process.send_signal(signal.SIGINT)
                process.wait(STOP_LIMIT_S)


@contextlib.contextmanager
def running(arms: dict[str, Path], *options: str) -> Iterator[str]:
    """The address alone."""
    with serving(arms, *options) as target:
        yield target.url


def wait_ready(url: str, process: "subprocess.Popen[bytes]", log: Path, limit_s: float = 300) -> None:
    deadline = time.monotonic() + limit_s
    # one client: to make one takes 17 ms of CPU, which the service could start with
    with httpx.Client(base_url=url, timeout=1) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if client.get("/ready").status_code == 200:
                    return
            if process.poll() is not None:
                break
            time.sleep(0.02)
    raise RuntimeError(f"the service did not come up (process {os.getpid()} saw): {log.read_text()[-2000:]}")
