"""The process that computes: opens bundles, their engines, the cache and the embedded Redis; alone, or before others.

With `--http-workers` it is a process of its own (service/processes/engine.py).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from index.bundle.signature import TrustedKeys
from service.bootstrap import Engines
from service.catalogue.follower import CatalogueFollower
from service.catalogue.state import LiveState
from service.embedded import with_redis
from service.engine.arms import ArmSlot, Release
from service.engine.collector import EngineCollector
from service.engine.loading import EngineParts, choose_device, load_arm, plain_engine
from service.engine.messages import EngineLimits
from service.errors import ConfigurationError
from service.golden.recorder import HistoryRecorder, forget_recorded
from service.items import follow, learners, open_changes
from service.reload.collector import ReloadCollector
from service.reload.comparison import ListComparison
from service.reload.reloader import Reloader
from service.reload.watcher import Watcher
from service.settings import Settings
from service.stores.collectors import CacheCollector
from service.stores.redis_client import RedisClient, RedisLimits
from service.stores.vector_cache import (
    CacheLimits,
    MemoryVectorCache,
    RedisVectorCache,
    TieredVectorCache,
    VectorCaches,
)
from service.telemetry.metrics import Metrics

RECORDED = "golden.json"  # in the state folder


@asynccontextmanager
async def open_engines(settings: Settings, metrics: Metrics) -> AsyncIterator[Engines[Reloader]]:
    """Proves the bundles and starts an engine an arm, with a cache before them: for this process or for HTTP processes.

    Raises ConfigurationError with the reason when a bundle is refused.
    """
    async with AsyncExitStack() as stack:
        settings = await with_redis(settings, stack)
        cache, clients = open_cache(settings, stack)
        device = choose_device(settings.device)
        stall_s, state = settings.engine_stall_ms / 1e3, LiveState()
        trusted = read_trusted(settings.trust_key)
        recorder = open_recorder(settings, stack)
        engine_of = recorder.engine_of if recorder else plain_engine
        limits = EngineLimits(settings.max_waiting, settings.max_batch_tokens, stall_s=stall_s)

        def load(name: str, folder: Path) -> Release:
            parts = EngineParts(limits, cache, metrics.engine(name), state, settings.fresh_share, trusted, engine_of)
            return load_arm(name, folder, device, parts).release

        arms: dict[str, ArmSlot] = {}
        for name, folder in settings.arms.items():
            # hashing and replaying take seconds; signals should work meanwhile
            arms[name] = ArmSlot(await asyncio.to_thread(load, name, folder))
            stack.push_async_callback(arms[name].close)
        changes, log_clients = open_changes(settings, stack)
        await follow(CatalogueFollower(changes, state, lambda: learners(arms)), stack)
        comparison = ListComparison()
        if recorder:
            comparison = ListComparison(recorder.histories, settings.golden_floor, recorder.held)
        reloader = Reloader(arms, settings.arms, load, comparison)
        stack.push_async_callback(reloader.close)
        if settings.watch_bundles_s:
            watching = asyncio.create_task(Watcher(reloader, settings.arms).run(settings.watch_bundles_s))
            stack.callback(watching.cancel)
        collectors = (CacheCollector(cache), EngineCollector(arms), ReloadCollector(reloader))
        yield Engines(settings, arms, reloader, changes, state, collectors, (*clients, *log_clients))


def open_recorder(settings: Settings, stack: AsyncExitStack) -> HistoryRecorder | None:
    """Keeps some histories of requests; None where that is off, and then those of before are gone."""
    path = settings.state_dir / RECORDED
    if not settings.golden_share:
        forget_recorded(path)
        return None
    recorder = HistoryRecorder(path, settings.golden_share, settings.golden_days)
    stack.push_async_callback(recorder.close)
    return recorder


def read_trusted(path: Path | None) -> TrustedKeys | None:
    """The keys of those whose bundles are served; None = anybody's. Raises ConfigurationError for an unusable file."""
    try:
        return TrustedKeys.read(path) if path else None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"setting trust_key: {error}") from error


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
