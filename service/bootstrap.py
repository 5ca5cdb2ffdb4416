"""Builds the running service from settings and takes it down again.

The only place that chooses between Redis and its twins.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import generate_latest

from service.engine.arms import Arm
from service.engine.loading import choose_device, load_arm, load_arm_metadata
from service.engine.messages import EngineLimits
from service.engine.remote import EngineLink
from service.errors import ConfigurationError
from service.experiments.assignment import DEFAULT_FILE, Assigner
from service.experiments.exposure import ExposureLog
from service.experiments.feedback import FeedbackLimits, FeedbackSink, MemoryFeedback, RedisFeedback
from service.experiments.rules import FEATURE
from service.pipeline import RecallPipeline
from service.settings import Settings
from service.stores.embedded_redis import EmbeddedRedis
from service.stores.history import HistoryStore, MemoryHistory, RedisHistory
from service.stores.redis_client import RedisClient, RedisLimits
from service.stores.vector_cache import (
    CacheLimits,
    MemoryVectorCache,
    RedisVectorCache,
    TieredVectorCache,
    VectorCaches,
)
from service.telemetry.collectors import ComponentCollector
from service.telemetry.metrics import Metrics

WATCH_SECONDS = 1.0
log = structlog.get_logger()


@dataclass(frozen=True)
class Stores:
    """What outlives a request, in Redis or in this process."""

    histories: HistoryStore
    feedback: FeedbackSink
    cache: VectorCaches | None
    exposures: ExposureLog | None
    redis_clients: tuple[RedisClient, ...] = ()


@dataclass(frozen=True)
class Service:
    """What the routes use."""

    settings: Settings
    recaller: RecallPipeline
    stores: Stores
    metrics: Metrics
    link: EngineLink | None = None  # to the process that computes, where that is another
    background: set["asyncio.Task[None]"] = field(default_factory=set)  # held, or the loop may forget them


@asynccontextmanager
async def open_service(settings: Settings, engine_address: str | None = None) -> AsyncIterator[Service]:
    """Everything is up inside, and down again outside. engine_address: of the process that computes; None = this one.

    Raises ConfigurationError before anything answers.
    """
    async with AsyncExitStack() as stack:
        link = EngineLink(engine_address) if engine_address else None
        if link:
            stack.push_async_callback(link.close)
            arms = {name: load_arm_metadata(name, folder, link) for name, folder in settings.arms.items()}
        else:
            # hashing and replaying take seconds; signals should work meanwhile
            arms = await asyncio.to_thread(load_arms, settings)
        # closed last: everything that may still ask an engine is closed before it
        for arm in arms.values():
            stack.push_async_callback(arm.engine.close)
        assigner = load_assigner(settings.experiments, arms)
        stores = memory_stores(settings) if settings.uses_memory else await redis_stores(settings, stack)
        # beside a remote engine the cache is the engine's
        cache = None if link else stores.cache
        recaller = RecallPipeline(
            arms, assigner, stores.histories, cache, link is not None and settings.cache_ttl_s > 0
        )
        metrics = Metrics()
        for name, arm in arms.items():
            metrics.watch(name, arm.engine)
        metrics.registry.register(ComponentCollector(recaller, cache, stores.redis_clients, stores.exposures, metrics))
        if link:
            link.metrics = partial(scrape, metrics)
        yield Service(settings, recaller, stores, metrics, link)


def scrape(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def load_arms(settings: Settings) -> dict[str, Arm]:
    if not settings.arms:
        raise ConfigurationError("no arm to serve: give --arm NAME=BUNDLE, or make bundles with `recall demo`")
    device = choose_device(settings.device)
    limits = EngineLimits(settings.max_waiting, settings.max_batch_tokens)
    return {name: load_arm(name, folder, device, limits) for name, folder in settings.arms.items()}


def load_assigner(path: Path | None, arms: Collection[str]) -> Assigner:
    """The experiment file given; else recgpt against comirec where both are served; else one arm for everybody."""
    if path is not None:
        return Assigner.from_file(path, arms)
    if {"recgpt", "comirec"} <= set(arms):
        return Assigner.from_file(DEFAULT_FILE, arms)
    only = next(iter(arms))
    log.info("no_experiment", arm=only, reason="no experiment file, and not both recgpt and comirec are served")
    return Assigner.from_features({"features": {FEATURE: {"defaultValue": only}}}, arms)


def memory_stores(settings: Settings) -> Stores:
    histories = MemoryHistory(settings.max_history)
    cache = memory_cache(settings) if settings.cache_ttl_s else None
    return Stores(histories, MemoryFeedback(histories), cache, None)


def memory_cache(settings: Settings) -> MemoryVectorCache:
    return MemoryVectorCache(max_bytes=settings.memory_cache_mb * 2**20)


async def with_redis(settings: Settings, stack: AsyncExitStack) -> Settings:
    """The settings with the URL of an embedded redis-server where they have none."""
    if settings.redis_url:
        return settings
    return settings.model_copy(update={"redis_url": await _embed(settings, stack)})


async def engine_cache(
    settings: Settings, stack: AsyncExitStack
) -> tuple[VectorCaches | None, tuple[RedisClient, ...]]:
    """The cache of an engine process, and its client of Redis."""
    if not settings.cache_ttl_s:
        return None, ()
    if settings.uses_memory:
        return memory_cache(settings), ()
    link = RedisClient(settings.redis_url or "", "cache", RedisLimits(settings.redis_timeout_ms))
    stack.push_async_callback(link.close)
    far = RedisVectorCache(link, CacheLimits(settings.cache_ttl_s))
    stack.push_async_callback(far.flush)
    return (TieredVectorCache(memory_cache(settings), far) if settings.memory_cache_mb else far), (link,)


async def redis_stores(settings: Settings, stack: AsyncExitStack) -> Stores:
    """Two roles, each with its own client and patience; without a URL both live in an embedded redis-server."""
    url = (await with_redis(settings, stack)).redis_url or ""
    events_url = settings.events_redis_url or url
    # three clients: a slow event must not open the breaker of the cache, nor of history reads
    cache_link = RedisClient(url, "cache", RedisLimits(settings.redis_timeout_ms))
    events_link = RedisClient(events_url, "events", RedisLimits(settings.events_timeout_ms))
    history_link = RedisClient(events_url, "history", RedisLimits(settings.redis_timeout_ms))
    links = (cache_link, events_link, history_link)
    # pushed first, so closed last: what still writes is flushed before its client goes
    for link in links:
        stack.push_async_callback(link.close)
    exposures = ExposureLog(events_link)
    stack.push_async_callback(exposures.close)
    cache: VectorCaches | None = None
    if settings.cache_ttl_s:
        far = RedisVectorCache(cache_link, CacheLimits(settings.cache_ttl_s))
        cache = TieredVectorCache(memory_cache(settings), far) if settings.memory_cache_mb else far
        stack.push_async_callback(cache.flush)
    histories = RedisHistory(history_link, settings.max_history)
    return Stores(
        histories, RedisFeedback(events_link, FeedbackLimits(max_history=settings.max_history)), cache, exposures, links
    )


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
        await asyncio.sleep(WATCH_SECONDS)
        try:
            if await asyncio.to_thread(server.ensure):
                log.warning("embedded_redis_restarted")
        except ConfigurationError as error:
            log.warning("embedded_redis_down", error=str(error))
