"""The embedded redis-server for the time of a service: started, watched, started again where it died, stopped."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from service.errors import ConfigurationError
from service.stores.embedded_redis import EmbeddedRedis

WATCH_SECONDS = 1.0
log = structlog.get_logger()


async def embed(folder: Path, stack: AsyncExitStack) -> str:
    """The URL of a server with its data in `folder`, kept alive until the stack ends.

    Raises ConfigurationError when the folder is in use or the server does not come up.
    """
    server = EmbeddedRedis(folder)
    await asyncio.to_thread(server.start)
    stack.push_async_callback(asyncio.to_thread, server.close)
    watcher = asyncio.create_task(_watch(server))
    stack.callback(watcher.cancel)
    log.info("embedded_redis", folder=str(folder), reason="no redis_url was given")
    return server.url


async def _watch(server: EmbeddedRedis) -> None:
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            if await asyncio.to_thread(server.ensure):
                log.warning("embedded_redis_restarted")
        except ConfigurationError as error:
            log.warning("embedded_redis_down", error=str(error))
