"""HTTP processes before an engine process: how that one starts them, and what each of them runs.

They load no torch and no FAISS: an HTTP process holds ids, experiments and histories. One whose parent is gone ends
itself.
"""

import asyncio
import json
import os
import signal
import site
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from pydantic import SecretStr

from service.bootstrap import engines_at
from service.errors import ConfigurationError
from service.settings import Settings

ENVIRONMENT = "RECALL_HTTP_WORKER"  # settings and address of the engine for an HTTP process, as JSON
STOP_S, WATCH_S = 12.0, 0.2
log = structlog.get_logger()


@contextmanager
def http_processes(settings: Settings, port: int, address: str) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Running inside, ended outside; requests under way are answered first."""
    secrets = {name: value for name, value in settings if isinstance(value, SecretStr)}
    given = settings.model_dump(mode="json", exclude={*secrets}) | {"port": port}
    given |= {name: value.get_secret_value() for name, value in secrets.items()}
    environment = {**os.environ, **code_path(), ENVIRONMENT: json.dumps({"settings": given, "engine": address})}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(settings.http_workers):
            # -P: nothing of the folder that a service happens to be started in is imported
            command = [sys.executable, "-P", "-m", "service.http.workers"]
            processes.append(subprocess.Popen(command, env=environment))  # noqa: S603  (our own command)
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def code_path() -> dict[str, str]:
    """The PYTHONPATH by which another process finds this very code, where that is not installed but a checkout."""
    here = str(Path(__file__).parents[2])
    if here in (*site.getsitepackages(), site.getusersitepackages()):
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}


def main() -> None:
    """Runs an HTTP process."""
    from service.http.app import create_app  # noqa: PLC0415  (routes and wiring: only here)
    from service.http.server import Server, listen  # noqa: PLC0415
    from service.telemetry.logging import configure_logging  # noqa: PLC0415

    told = json.loads(os.environ.pop(ENVIRONMENT))
    settings = Settings(**told["settings"])
    configure_logging(settings.log_level)
    app = create_app(settings, engines_at(told["engine"]))
    parent = os.getppid()

    async def ready() -> None:
        link = app.service.link
        if link is None:
            raise ConfigurationError("this process has no address of an engine process")
        await link.tell_ready()
        while os.getppid() == parent:  # noqa: ASYNC110  (no event tells of a parent's end)
            await asyncio.sleep(WATCH_S)
        log.error("engine_process_gone")
        link.fail_all(ConfigurationError("the engine process is gone"))
        os.kill(os.getpid(), signal.SIGTERM)

    with listen(settings.host, settings.port, reuse_port=True) as listener:
        Server(app, ready).run([listener])


if __name__ == "__main__":
    main()
