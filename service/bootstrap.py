"""Builds the running service from settings and takes it down again: everything by constructor arguments.

The only place that chooses between Redis and its twins.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from prometheus_client.registry import Collector

from service.engine.arms import ArmSlot, Release
from service.engine.collector import EngineCollector
from service.engine.loading import EngineParts, choose_device, load_arm
from service.engine.messages import EngineLimits
from service.engine.releases import Releases
from service.errors import ConfigurationError
from service.experiments.assignment import DEFAULT_FILE, Assigner
from service.experiments.collector import ExposureCollector
from service.experiments.exposure import ExposureLog, ExposureSink, MemoryExposures
from service.experiments.feedback import FeedbackLimits, FeedbackSink, MemoryFeedback, RedisFeedback
from service.experiments.rules import FEATURE
from service.experiments.shadow import ShadowComparison
from service.pipeline import RecallPipeline, RecallQuery
from service.reload.collector import ReloadCollector
from service.reload.reloader import Reloader
from service.reload.watcher import Watcher
from service.remote.follower import Follower, follow_engine
from service.remote.link import EngineLink
from service.settings import Settings
from service.stores.collectors import CacheCollector, RedisCollector
from service.stores.embedding import embed
from service.stores.history import HistoryStore, MemoryHistory, RedisHistory
from service.stores.redis_client import RedisClient, RedisLimits
from service.stores.vector_cache import (
    CacheLimits,
    MemoryVectorCache,
    RedisVectorCache,
    TieredVectorCache,
    VectorCaches,
)
from service.telemetry.collectors import add_up
from service.telemetry.metrics import Metrics

R = TypeVar("R", bound=Releases)
log = structlog.get_logger()


@dataclass(frozen=True)
class Engines(Generic[R]):
    """The arms that a process asks, and what their engines share where these are in the same process."""

    settings: Settings  # with the URL of the embedded redis-server where they had none
    arms: dict[str, ArmSlot]
    releases: R
    cache: VectorCaches | None = None
    redis_clients: tuple[RedisClient, ...] = ()

    def collectors(self) -> list[Collector]:
        """Metrics of the engines, where these are in this process."""
        reloads = [ReloadCollector(self.releases)] if isinstance(self.releases, Reloader) else []
        return [CacheCollector(self.cache), EngineCollector(self.arms), *reloads]


@dataclass(frozen=True)
class Stores:
    """The state that outlives a request, in Redis or in this process."""

    histories: HistoryStore
    feedback: FeedbackSink
    exposures: ExposureSink
    redis_clients: tuple[RedisClient, ...] = ()

    def collectors(self) -> list[Collector]:
        return [ExposureCollector(self.exposures)]


@dataclass(frozen=True)
class Service:
    """Everything that the routes use."""

    settings: Settings
    pipeline: RecallPipeline
    stores: Stores
    releases: Releases
    metrics: Metrics
    shadow: ShadowComparison[RecallQuery]
    link: EngineLink | None = None  # to the process that computes, where that is another

    async def scrape(self) -> bytes:
        """Prometheus text, of all processes together."""
        return add_up(await self.link.all_metrics()) if self.link else self.metrics.render().encode()


@asynccontextmanager
async def open_service(settings: Settings, engine_address: str | None = None) -> AsyncIterator[Service]:
    """Everything is up inside, and down again outside. engine_address: of the process that computes; None = this one.

    Raises ConfigurationError before anything answers.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        link = EngineLink(engine_address, metrics.render, metrics.engine("unknown")) if engine_address else None
        engines: Engines[Reloader] | Engines[Follower]
        if link:
            stack.push_async_callback(link.close)
            engines = await remote_engines(settings, link)
        else:
            engines = await stack.enter_async_context(open_engines(settings, metrics))
        assigner = load_assigner(settings.experiments, engines.arms)
        # opened after the engines, so closed before them: nothing here may ask an engine that is gone
        stores = open_stores(engines.settings, stack)
        clients = (*engines.redis_clients, *stores.redis_clients)
        register(metrics, *engines.collectors(), *stores.collectors(), RedisCollector(clients))
        pipeline = RecallPipeline(engines.arms, assigner, stores.histories)
        shadow = ShadowComparison(pipeline, metrics.overlap)
        stack.push_async_callback(shadow.close)
        stores = replace(stores, redis_clients=clients)
        yield Service(settings, pipeline, stores, engines.releases, metrics, shadow, link)


def register(metrics: Metrics, *collectors: Collector) -> None:
    for collector in collectors:
        metrics.registry.register(collector)


@asynccontextmanager
async def open_engines(settings: Settings, metrics: Metrics) -> AsyncIterator[Engines[Reloader]]:
    """Proves the bundles and starts an engine an arm, with a cache before them: for this process or for HTTP processes.

    Raises ConfigurationError with the reason when a bundle is refused.
    """
    if not settings.arms:
        raise ConfigurationError("no arm to serve: give --arm NAME=BUNDLE, or make bundles with `recall demo`")
    async with AsyncExitStack() as stack:
        settings = await with_redis(settings, stack)
        cache, clients = open_cache(settings, stack)
        device = choose_device(settings.device)
        limits = EngineLimits(settings.max_waiting, settings.max_batch_tokens, stall_s=settings.engine_stall_ms / 1e3)

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
        yield Engines(settings, arms, reloader, cache, clients)


async def remote_engines(settings: Settings, link: EngineLink) -> Engines[Follower]:
    """Arms whose engines and cache are in the process at the other end of the link, which decides what they serve."""
    follower = await follow_engine(link, has_cache=settings.cache_ttl_s > 0)
    return Engines(settings, follower.arms, follower)


def load_assigner(path: Path | None, arms: Collection[str]) -> Assigner:
    """The experiment file given; else recgpt against comirec where both are served; else one arm for everybody."""
    if path is not None:
        return Assigner.from_file(path, arms)
    if {"recgpt", "comirec"} <= set(arms):
        return Assigner.from_file(DEFAULT_FILE, arms)
    only = next(iter(arms))
    log.info("no_experiment", arm=only, reason="no experiment file, and not both recgpt and comirec are served")
    return Assigner.from_features({"features": {FEATURE: {"defaultValue": only}}}, arms)


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


def open_stores(settings: Settings, stack: AsyncExitStack) -> Stores:
    """Histories, feedback and exposures: in Redis, each with its own client and patience, or in this process."""
    if settings.keeps_events_in_memory:
        memory = MemoryHistory(settings.max_history)
        return Stores(memory, MemoryFeedback(memory), MemoryExposures())
    url = settings.events_redis_url or settings.redis_url or ""
    # clients of their own: a slow event must not open the breaker of history reads, nor of the cache
    events = RedisClient(url, "events", RedisLimits(settings.events_timeout_ms))
    history = RedisClient(url, "history", RedisLimits(settings.redis_timeout_ms))
    # pushed first, so closed last: what still writes is flushed before its client goes
    for client in (events, history):
        stack.push_async_callback(client.close)
    exposures = ExposureLog(events)
    stack.push_async_callback(exposures.close)
    feedback = RedisFeedback(events, FeedbackLimits(max_history=settings.max_history))
    return Stores(RedisHistory(history, settings.max_history), feedback, exposures, (events, history))


async def with_redis(settings: Settings, stack: AsyncExitStack) -> Settings:
    """The settings with the URL of an embedded redis-server where they have none."""
    if settings.redis_url:
        return settings
    return settings.model_copy(update={"redis_url": await embed(settings.state_dir / "redis", stack)})
