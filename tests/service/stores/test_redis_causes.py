"""Errors of the library and of sockets become causes: what passes, what opens the breaker, what has to be mended."""

import asyncio
from ssl import SSLError

import pytest
from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError

from service.stores.redis_causes import CAUSES, FailureCause, cause_of
from service.stores.redis_client import RedisClient, RedisLimits, RedisUnavailable


def wrapped(inner):
    """An error of the library as it arises: raised while the first one was handled."""
    error = exceptions.ConnectionError(f"Error connecting: {inner}")
    error.__context__ = inner
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (exceptions.TimeoutError(), FailureCause.TIMEOUT),
        (TimeoutError(), FailureCause.TIMEOUT),
        (ConnectionRefusedError(), FailureCause.REFUSED),
        (FileNotFoundError(), FailureCause.REFUSED),
        (ConnectionResetError(), FailureCause.LOST),
        (exceptions.ConnectionError("Connection closed by server."), FailureCause.LOST),
        (exceptions.BusyLoadingError(), FailureCause.LOADING),
        (exceptions.AuthenticationError(), FailureCause.AUTH),
        (exceptions.NoPermissionError(), FailureCause.PERMISSION),
        (exceptions.OutOfMemoryError(), FailureCause.MEMORY),
        (exceptions.ReadOnlyError(), FailureCause.READONLY),
        (MasterNotFoundError("no master"), FailureCause.NO_MASTER),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), FailureCause.ERROR),
        (TypeError("a value that the library does not expect"), FailureCause.BUG),
    ],
)
def test_an_error_has_its_cause(error, cause):
    assert cause_of(error) is cause


@pytest.mark.parametrize(
    ("inner", "cause"),
    [
        (ConnectionRefusedError(), FailureCause.REFUSED),
        (TimeoutError(), FailureCause.TIMEOUT),
        (SSLError("CERTIFICATE_VERIFY_FAILED: self-signed certificate"), FailureCause.TLS),
        (exceptions.AuthenticationError(), FailureCause.AUTH),
    ],
)
def test_the_first_error_is_the_cause_of_the_one_that_wraps_it(inner, cause):
    assert cause_of(wrapped(inner)) is cause


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("-OOM command not allowed when used memory > 'maxmemory'", FailureCause.MEMORY),
        ("Error running script: -READONLY You can't write against a read only replica", FailureCause.READONLY),
        ("NOAUTH Authentication required.", FailureCause.AUTH),
        ("this user has no permissions to run the 'xadd' command", FailureCause.PERMISSION),
    ],
)
def test_a_script_quotes_the_error_that_refused_its_write(words, cause):
    assert cause_of(exceptions.ResponseError(words)) is cause


def test_a_cluster_that_nobody_told_of_is_as_its_last_node_said():
    error = exceptions.RedisClusterException("Redis Cluster cannot be connected")
    error.__cause__ = exceptions.AuthenticationError()
    assert cause_of(error) is FailureCause.AUTH


@pytest.mark.parametrize(
    ("error", "num_calls", "refusal"),
    [
        (ConnectionRefusedError(), 1, None),
        (exceptions.BusyLoadingError(), 1, None),
        (MasterNotFoundError("no master"), 1, None),
        (exceptions.ClusterDownError("CLUSTERDOWN"), 1, None),
        (exceptions.AuthenticationError(), 1, FailureCause.AUTH),
        (wrapped(SSLError("CERTIFICATE_VERIFY_FAILED")), 1, FailureCause.TLS),
        (TimeoutError(), 3, None),
        (ConnectionResetError(), 3, None),
        (exceptions.OutOfMemoryError(), None, FailureCause.MEMORY),
        (exceptions.ReadOnlyError(), None, FailureCause.READONLY),
        (exceptions.ResponseError("WRONGTYPE"), None, None),
        (exceptions.NoPermissionError(), None, FailureCause.PERMISSION),
        (exceptions.ClusterCrossSlotError("CROSSSLOT"), None, FailureCause.CLUSTER),
        (TypeError("a value that the library does not expect"), None, FailureCause.BUG),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_after_so_many_failed_calls_of_a_cause_the_breaker_is_open_and_a_lasting_one_is_told(error, num_calls, refusal):
    async def fail(_):
        raise error

    async def main():
        # the calls fail before any connection is opened
        client = RedisClient("redis://127.0.0.1:1", "test", RedisLimits(timeout_ms=10_000, max_failures=3, open_s=60))
        were_open = []
        for _ in range(6):
            with pytest.raises(RedisUnavailable):
                await client.run(fail)
            were_open.append(client.is_down)
        await client.close()
        return were_open, client.refusal

    closed = 6 if num_calls is None else num_calls - 1
    assert asyncio.run(main()) == ([False] * closed + [True] * (6 - closed), refusal)


def test_a_narrower_error_is_looked_for_before_a_wider_one():
    kinds = [kind for kind, _ in CAUSES]
    for place, kind in enumerate(kinds):
        assert not any(issubclass(kind, earlier) for earlier in kinds[:place]), kind
