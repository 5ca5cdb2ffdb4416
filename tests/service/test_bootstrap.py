"""Stores as the settings say: each of the two Redis may be in the memory of the process by itself."""

import asyncio
from contextlib import AsyncExitStack

from service.bootstrap import open_stores
from service.experiments.feedback import Action, FeedbackEvent, MemoryFeedback
from service.settings import Settings
from service.stores.embedded_redis import EmbeddedRedis


def test_events_go_to_their_redis_where_vectors_are_in_memory(tmp_path):
    event = FeedbackEvent(user="u", item=7, action=Action.PLAY, ts_ms=1)

    async def main(settings):
        async with AsyncExitStack() as stack:
            stores = open_stores(settings, stack)
            await stores.feedback.keep(event)
            return await stores.histories.recent("u")

    with EmbeddedRedis(tmp_path) as server:
        settings = Settings(redis_url="memory", events_redis_url=server.url, redis_timeout_ms=5000)
        assert asyncio.run(main(settings)) == [7]
        # another process finds it there
        assert asyncio.run(main(settings)) == [7]


def test_everything_is_in_memory_where_nothing_else_is_named():
    async def main():
        async with AsyncExitStack() as stack:
            return open_stores(Settings(redis_url="memory"), stack).feedback

    assert isinstance(asyncio.run(main()), MemoryFeedback)
