"""The log of changes while Redis is away, or refuses: the last state stands, and who writes is told which it is."""

import asyncio
from contextlib import suppress

import pytest

from service.catalogue.changes import PutItem, encode
from service.catalogue.follower import CatalogueFollower
from service.catalogue.log import CLUSTER_COUNTER, COUNTER, STREAM, MemoryCatalogueLog, RedisCatalogueLog
from service.catalogue.state import LiveState
from service.errors import EventsRefused, EventsUnavailable
from service.stores.redis_causes import FailureCause
from service.stores.redis_client import RedisUnavailable


class Client:
    """A client of Redis that answers a script with what it is told."""

    def __init__(self, reply, is_cluster=False):
        self.reply, self.is_cluster, self.calls = reply, is_cluster, []

    async def run_script(self, script, calls):
        self.calls += calls
        if isinstance(self.reply, Exception):
            raise self.reply
        return [self.reply]


class Telling(Client):
    """The same, which tells of a refusal as a reply: one call of a pipeline was refused."""

    async def run_script(self, script, calls):
        return [self.reply]


@pytest.mark.parametrize("kind", [Client, Telling])
@pytest.mark.parametrize(
    ("cause", "error"),
    [
        (FailureCause.TIMEOUT, EventsUnavailable),
        (FailureCause.REFUSED, EventsUnavailable),
        (FailureCause.MEMORY, EventsUnavailable),
        (FailureCause.AUTH, EventsRefused),
        (FailureCause.PERMISSION, EventsRefused),
    ],
)
def test_who_puts_an_item_is_told_whether_to_send_it_again(kind, cause, error):
    log = RedisCatalogueLog(kind(RedisUnavailable(cause)), Client(None))
    with pytest.raises(error) as refused:
        asyncio.run(log.append([PutItem(1)]))
    assert refused.value.retryable is (error is EventsUnavailable)


@pytest.mark.parametrize(("is_cluster", "counter"), [(False, COUNTER), (True, CLUSTER_COUNTER)])
def test_the_number_and_the_place_are_one_step_in_one_slot(is_cluster, counter):
    writer = Client(7, is_cluster)
    assert asyncio.run(RedisCatalogueLog(writer, Client(None)).append([PutItem(1)])) == [7]
    assert writer.calls == [((counter, STREAM), (encode(PutItem(1)),))]


class Unsteady(MemoryCatalogueLog):
    """A log that cannot be read at first."""

    def __init__(self, num_failures):
        super().__init__()
        self.num_failures = num_failures

    async def read(self, wait=True):
        if self.num_failures:
            self.num_failures -= 1
            raise RedisUnavailable(FailureCause.TIMEOUT)
        return await super().read(wait)


def test_a_start_without_redis_serves_what_it_has():
    state = LiveState()
    asyncio.run(CatalogueFollower(Unsteady(1), state).catch_up())
    assert state.current.number == 0


def test_a_follower_reads_on_where_redis_is_back(monkeypatch):
    monkeypatch.setattr("service.catalogue.follower.RETRY_S", 0.001)
    log, state = Unsteady(3), LiveState()
    follower = CatalogueFollower(log, state)

    async def scenario():
        await log.append([PutItem(5)])
        running = asyncio.create_task(follower.run())
        await state.wait_for(1, asyncio.get_running_loop().time() + 60)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    assert follower.failures == {FailureCause.TIMEOUT: 3}
    assert 5 in state.current.current
