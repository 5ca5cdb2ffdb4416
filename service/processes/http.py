"""One engine process and several HTTP processes: started together, ended together.

The engine process (this one) opens bundles, stores of vectors and the embedded Redis, starts `--http-workers` HTTP
processes that share the port, and ends them when it ends. An HTTP process that ends unasked ends the whole service
with status 2: something outside restarts it, and half a service is never left standing. An HTTP process whose parent
is gone ends itself.
"""

import asyncio
import json
import os
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import structlog
import uvloop
from pydantic import SecretStr

from service.bootstrap import open_engines, register
from service.errors import ConfigurationError
from service.remote.server import EngineServer
from service.settings import Settings
from service.stores.collectors import RedisCollector
from service.telemetry.metrics import Metrics

ENVIRONMENT = "RECALL_HTTP_WORKER"  # settings and address of the engine for an HTTP process, as JSON
STOP_S, WATCH_S = 12.0, 0.2
log = structlog.get_logger()


def run_engine(settings: Settings, port: int, on_start: Callable[[], None]) -> None:
    """Serves until it is told to stop. Raises ConfigurationError when an arm cannot be served or a process breaks."""
    uvloop.run(_run_engine(settings, port, on_start))


async def _run_engine(settings: Settings, port: int, on_start: Callable[[], None]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        address = f"ipc://{stack.enter_context(tempfile.TemporaryDirectory())}/engine"
        engines = await stack.enter_async_context(open_engines(settings, metrics))
        register(metrics, *engines.collectors(), RedisCollector(engines.redis_clients))
        observer = metrics.engine("unknown")
        server = EngineServer(
            address, engines.arms, metrics.render, observer, engines.releases, num_expected=settings.http_workers
        )
        engines.releases.subscribe(server)
        stack.push_async_callback(server.close)
        serving = asyncio.create_task(server.run())
        stack.callback(serving.cancel)
        with http_processes(engines.settings, port, address) as processes:
            starting = asyncio.create_task(server.ready.wait())
            await _until(lambda: starting.done() or stopping.is_set(), processes)
            if server.ready.is_set():
                on_start()
            await _until(stopping.is_set, processes)


async def _until(is_over: Callable[[], bool], processes: list["subprocess.Popen[bytes]"]) -> None:
    """Raises ConfigurationError when one of the processes ends before."""
    while not is_over():
        if ended := [process for process in processes if process.poll() is not None]:
            raise ConfigurationError(f"an HTTP process ended with status {ended[0].returncode}; see the log above")
        await asyncio.sleep(WATCH_S)


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
    app = create_app(settings, told["engine"])
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
