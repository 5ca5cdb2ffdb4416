"""Starts the embedded redis-server where the settings name none, and the consumer of its events."""

import asyncio
from contextlib import AsyncExitStack

import structlog

from service.consumer.child import ConsumerProcess
from service.consumer.limits import ConsumerLimits
from service.settings import Settings
from service.stores.embedding import embed

log = structlog.get_logger()


async def with_redis(settings: Settings, stack: AsyncExitStack) -> Settings:
    """The settings with the URL of an embedded redis-server where they have none; its events are consumed."""
    if settings.redis_url:
        return settings
    url = await embed(settings.state_dir / "redis", stack)
    if settings.event_log_gb and settings.events_redis_url is None:
        _consume(url, settings, stack)
    return settings.model_copy(update={"redis_url": url})


def _consume(url: str, settings: Settings, stack: AsyncExitStack) -> None:
    """Starts a consumer of the embedded redis-server's events and keeps it alive; it ends before that server."""
    folder, limits = settings.state_dir / "events", ConsumerLimits(keep_bytes=int(settings.event_log_gb * 2**30))
    consumer = ConsumerProcess(url, folder, limits, settings.log_level)
    stack.push_async_callback(asyncio.to_thread, consumer.close)
    watcher = asyncio.create_task(consumer.watch())
    stack.callback(watcher.cancel)
    log.info("event_log", folder=str(folder), reason="the embedded Redis keeps events for a while only")
