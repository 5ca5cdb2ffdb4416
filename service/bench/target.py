"""A real service process to measure: starts `recall serve`, waits until it is ready, ends it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(arms: dict[str, Path], *options: str) -> Iterator[str]:
    """The address of a ready service with these bundles; its log goes to a temporary folder."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        pairs = [word for name, path in arms.items() for word in ("--arm", f"{name}={path}")]
        command = [sys.executable, "-m", "service.cli", "serve", *pairs, "--port", str(port), "--log-level", "warning"]
        command += ["--state-dir", folder, *options]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603  (our own command)
            try:
                wait_ready(f"http://127.0.0.1:{port}", process, Path(folder) / "log")
                yield f"http://127.0.0.1:{port}"
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(20)


def wait_ready(url: str, process: "subprocess.Popen[bytes]", log: Path, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/ready", timeout=1).status_code == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the service did not come up (process {os.getpid()} saw): {log.read_text()[-2000:]}")
