"""The process that computes: opens bundles, their engines, the cache and the embedded Redis; alone, or before others.

With `--http-workers` it starts HTTP processes that share the port (service/http/workers.py) and ends them when it ends.
An HTTP process that ends unasked ends the whole service with status 2: something outside restarts it, and half a
service is never left standing.
"""

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog
import uvloop

from service.bootstrap import Engines, freeze_loaded, load_assigner, register
from service.engine.arms import ArmSlot, Release
from service.engine.collector import EngineCollector
from service.engine.loading import EngineParts, choose_device, load_arm
from service.engine.messages import EngineLimits
from service.errors import ConfigurationError
from service.http.workers import http_processes
from service.reload.collector import ReloadCollector
from service.reload.reloader import Reloader
from service.reload.watcher import Watcher
from service.remote.server import EngineServer
from service.settings import Settings
from service.stores.collectors import CacheCollector, RedisCollector
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.redis_client import RedisClient, RedisLimits
from service.stores.vector_cache import (
    CacheLimits,
    MemoryVectorCache,
    RedisVectorCache,
    TieredVectorCache,
    VectorCaches,
)
from service.telemetry.metrics import Metrics

WATCH_REDIS_S, WATCH_PROCESSES_S = 1.0, 0.2
SWITCH_S = 0.0003  # of the interpreter, between threads
log = structlog.get_logger()


@asynccontextmanager
async def open_engines(settings: Settings, metrics: Metrics) -> AsyncIterator[Engines[Reloader]]:
    """Proves the bundles and starts an engine an arm, with a cache before them: for this process or for HTTP processes.

    Raises ConfigurationError with the reason when a bundle is refused.
    """
    async with AsyncExitStack() as stack:
        settings = await with_redis(settings, stack)
        cache, clients = open_cache(settings, stack)
        device = choose_device(settings.device)
        limits = EngineLimits(settings.max_waiting, settings.max_batch_tokens)

        def load(name: str, folder: Path) -> Release:
            return load_arm(name, folder, device, EngineParts(limits, cache, metrics.engine(name))).release

        arms: dict[str, ArmSlot] = {}
        for name, folder in settings.arms.items():
            # hashing and replaying take seconds; signals should work meanwhile
            arms[name] = ArmSlot(await asyncio.to_thread(load, name, folder))
            stack.push_async_callback(arms[name].close)
        reloader = Reloader(arms, settings.arms, load)
        if settings.watch_bundles_s:
            watching = asyncio.create_task(Watcher(reloader, settings.arms).run(settings.watch_bundles_s))
            stack.callback(watching.cancel)
        collectors = (CacheCollector(cache), EngineCollector(arms), ReloadCollector(reloader))
        yield Engines(settings, arms, reloader, collectors, clients)


def open_cache(settings: Settings, stack: AsyncExitStack) -> tuple[VectorCaches | None, tuple[RedisClient, ...]]:
    """The cache of query vectors, and its client of Redis where it has one."""
    if not settings.cache_ttl_s:
        return None, ()
    memory = MemoryVectorCache(max_bytes=settings.memory_cache_mb * 2**20)
    if settings.uses_memory:
        return memory, ()
    client = RedisClient(settings.redis_url or "", "cache", RedisLimits(settings.redis_timeout_ms))
    stack.push_async_callback(client.close)
    shared = RedisVectorCache(client, CacheLimits(settings.cache_ttl_s))
    stack.push_async_callback(shared.flush)
    return (TieredVectorCache(memory, shared) if settings.memory_cache_mb else shared), (client,)


async def with_redis(settings: Settings, stack: AsyncExitStack) -> Settings:
    """The settings with the URL of an embedded redis-server where they have none."""
    if settings.redis_url:
        return settings
    return settings.model_copy(update={"redis_url": await _embed(settings, stack)})


async def _embed(settings: Settings, stack: AsyncExitStack) -> str:
    """Starts the embedded redis-server and keeps it alive; returns its URL."""
    server = EmbeddedRedis(settings.state_dir / "redis")
    await asyncio.to_thread(server.start)
    stack.push_async_callback(asyncio.to_thread, server.close)
    watcher = asyncio.create_task(_watch(server))
    stack.callback(watcher.cancel)
    log.info("embedded_redis", folder=str(settings.state_dir / "redis"), reason="no redis_url was given")
    return server.url


async def _watch(server: EmbeddedRedis) -> None:
    while True:
        await asyncio.sleep(WATCH_REDIS_S)
        try:
            if await asyncio.to_thread(server.ensure):
                log.warning("embedded_redis_restarted")
        except ConfigurationError as error:
            log.warning("embedded_redis_down", error=str(error))


def run_engine(settings: Settings, port: int, on_start: Callable[[], None]) -> None:
    """Serves with HTTP processes in front until it is told to stop.

    Raises ConfigurationError when an arm cannot be served or a process breaks.
    """
    uvloop.run(_run_engine(settings, port, on_start))


async def _run_engine(settings: Settings, port: int, on_start: Callable[[], None]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # the HTTP processes read it too: a file that cannot be used is refused before the bundles are opened
    load_assigner(settings.experiments, settings.arms)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        address = f"ipc://{stack.enter_context(tempfile.TemporaryDirectory())}/engine"
        engines = await stack.enter_async_context(open_engines(settings, metrics))
        register(metrics, *engines.collectors, RedisCollector(engines.redis_clients))
        observer = metrics.engine("unknown")
        server = EngineServer(
            address, engines.arms, metrics.render, observer, engines.releases, num_expected=settings.http_workers
        )
        engines.releases.subscribe(server)
        stack.push_async_callback(server.close)
        freeze_loaded()
        # the threads that compute would hold the interpreter for 5 ms at a time while answers wait to be sent
        sys.setswitchinterval(SWITCH_S)
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
        await asyncio.sleep(WATCH_PROCESSES_S)
