"""One Redis, reached in bounded time or not at all: this file decides that Redis is down.

`RedisClient` owns the connection pool of one role and a circuit breaker: a caller waits for at most `timeout_ms`, and
for nothing while the breaker is open. There are five roles: cache, history, events, items, catalogue; what each carries
stands in docs/architecture.md. Knows nothing of keys and values. redis-py's own defaults wait 58.8 s for a frozen
server and 2.7 s for a refused port; here its retries are off and every call has a deadline.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import structlog
from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.errors import ConfigurationError

T = TypeVar("T")
log = structlog.get_logger()


class FailureCause(StrEnum):
    """The reason why Redis did not serve a call; the label of the failure counter."""

    REFUSED = "refused"  # nobody listens
    LOADING = "loading"
    AUTH = "auth"  # no password, or a wrong one
    PERMISSION = "permission"  # the user's rights (ACL) do not go so far
    CLUSTER = "cluster"  # a node of a Redis Cluster, which wants another client
    TIMEOUT = "timeout"
    LOST = "lost"  # the connection ended in mid-reply
    MEMORY = "memory"
    READONLY = "readonly"
    ERROR = "error"
    OPEN = "open"  # not tried: the breaker is open
    BUG = "bug"  # neither Redis nor the network: the client library, or this code


OPENS_AT_ONCE = frozenset({FailureCause.REFUSED, FailureCause.LOADING, FailureCause.AUTH})
OPENS_WHEN_REPEATED = frozenset({FailureCause.TIMEOUT, FailureCause.LOST})
# somebody has to set something up otherwise: until then each call fails
PERMANENT = frozenset({FailureCause.AUTH, FailureCause.PERMISSION, FailureCause.CLUSTER, FailureCause.BUG})
REFUSAL_S = 60.0  # a permanent refusal is told for so long after the last time it was met
# whatever a library may raise for values it does not expect: trouble with a cache is a miss, never a failed request
BUGS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError, AssertionError)
# what a URL may say beside user, password, address and database; bounds and encodings are the service's own
URL_OPTIONS = frozenset({"db", "username", "password", "client_name", "health_check_interval", "socket_keepalive"})
TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
)


class RedisUnavailable(Exception):  # noqa: N818 - named for what it says; it never reaches a client
    """Redis did not serve this call; `cause` says why. Callers turn it into a miss or into EventsUnavailable."""

    def __init__(self, cause: FailureCause) -> None:
        super().__init__(f"Redis did not serve the call: {cause}")
        self.cause = cause


CAUSES: list[tuple[type[BaseException], FailureCause]] = [
    (exceptions.TimeoutError, FailureCause.TIMEOUT),
    (TimeoutError, FailureCause.TIMEOUT),
    (exceptions.BusyLoadingError, FailureCause.LOADING),
    (exceptions.AuthenticationError, FailureCause.AUTH),
    (exceptions.NoPermissionError, FailureCause.PERMISSION),
    (exceptions.ClusterCrossSlotError, FailureCause.CLUSTER),
    (exceptions.AskError, FailureCause.CLUSTER),  # and MovedError
    (exceptions.OutOfMemoryError, FailureCause.MEMORY),
    (exceptions.ReadOnlyError, FailureCause.READONLY),
    (exceptions.MaxConnectionsError, FailureCause.ERROR),
    (ConnectionRefusedError, FailureCause.REFUSED),
    (FileNotFoundError, FailureCause.REFUSED),
    (exceptions.ConnectionError, FailureCause.LOST),
    (OSError, FailureCause.LOST),
]
# a script's refused write arrives as a plain error that quotes the real one
QUOTED_CAUSES = {
    "-OOM ": FailureCause.MEMORY,
    "-READONLY ": FailureCause.READONLY,
    "-NOPERM ": FailureCause.PERMISSION,
    "user has no permissions": FailureCause.PERMISSION,
    "-CROSSSLOT ": FailureCause.CLUSTER,
    "-MOVED ": FailureCause.CLUSTER,
}


def cause_of(error: BaseException) -> FailureCause:
    """The cause behind an exception of redis-py or of the socket."""
    # redis-py wraps a socket's error, and one of the handshake, in a ConnectionError; the context keeps the first
    for kind, cause in CAUSES:
        if isinstance(error, kind) or isinstance(error.__context__, kind):
            return cause
    unnamed = FailureCause.BUG if isinstance(error, BUGS) else FailureCause.ERROR
    return next((cause for mark, cause in QUOTED_CAUSES.items() if mark in str(error)), unnamed)


def check_options(url: str, role: str) -> None:
    """Raises ConfigurationError for an option that would fail, or change what the service relies on, each request."""
    parts = urlsplit(url)
    known = URL_OPTIONS | TLS_OPTIONS if parts.scheme == "rediss" else URL_OPTIONS
    unknown = [name for name in parse_qs(parts.query, keep_blank_values=True) if name not in known]
    if unknown:
        raise ConfigurationError(
            f"the Redis URL of the {role} role is unusable: it has the option {unknown[0][:40]!r}; "
            f"it may have {', '.join(sorted(known))}"
        )


@contextmanager
def usable_url(url: str, role: str) -> Iterator[None]:
    """For the block that makes a client of `url`. Raises ConfigurationError, which never quotes the URL."""
    try:
        check_options(url, role)
        yield
    except (TypeError, ValueError, AttributeError, exceptions.RedisError):
        # the error of the library may quote the URL, and so the password in it
        raise ConfigurationError(
            f"the Redis URL of the {role} role is unusable; it is redis://[[user]:password@]host[:port][/db], "
            "rediss:// for TLS or unix://path, with special characters of a password as %23 for #, %40 for @"
        ) from None


class CircuitBreaker:
    """Closed, open for `open_s`, then one probe at a time until a call succeeds."""

    def __init__(self, open_s: float, max_failures: int) -> None:
        self._open_s, self._max_failures = open_s, max_failures
        self._num_failures = 0  # in a row
        self._open_until = 0.0  # 0 = closed
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        return self._open_until > 0

    def admit(self) -> bool:
        """True when a call may go out now; an open breaker admits one probe when its time is over."""
        if not self.is_open:
            return True
        if self._is_probing or time.monotonic() < self._open_until:
            return False
        self._is_probing = True
        return True

    def record_success(self) -> None:
        self._num_failures, self._open_until = 0, 0.0

    def record_failure(self, opens_at_once: bool) -> None:
        self._num_failures += 1
        if opens_at_once or self.is_open or self._num_failures >= self._max_failures:
            self._open_until = time.monotonic() + self._open_s

    def release(self) -> None:
        """Ends the admitted call, whatever became of it."""
        self._is_probing = False


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """The bounds of one client; the defaults suit the cache, events may wait longer."""

    timeout_ms: float = 20  # of one whole call, connecting included
    open_s: float = 1.0
    max_failures: int = 3  # timeouts or lost connections in a row that open the breaker
    max_connections: int = 64


class RedisClient:
    """Runs operations on one Redis. Belongs to one event loop; `close` it there."""

    def __init__(self, url: str, role: str, limits: RedisLimits = RedisLimits()) -> None:
        self.role, self._timeout_s = role, limits.timeout_ms / 1000
        self._breaker = CircuitBreaker(limits.open_s, limits.max_failures)
        self._client = Redis.from_pool(self._open_pool(url, limits))
        self._next_log = 0.0
        self._refused: tuple[FailureCause, float] | None = None  # the last permanent refusal, and when it was met
        self.failures: Counter[FailureCause] = Counter()

    def _open_pool(self, url: str, limits: RedisLimits) -> ConnectionPool:
        with usable_url(url, self.role):
            pool = ConnectionPool.from_url(
                url,
                max_connections=limits.max_connections,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=Retry(NoBackoff(), 0),
                # RESP3, the default of redis-py 8, adds a handshake and refuses servers before 6
                protocol=2,
            )
            # made and thrown away: options that a connection does not take are told now, not by every request
            pool.connection_class(**pool.connection_kwargs)
            return pool

    @property
    def is_down(self) -> bool:
        """True while the breaker is open: calls fail without being tried."""
        return self._breaker.is_open

    @property
    def refusal(self) -> FailureCause | None:
        """The cause for which calls fail until somebody sets something up otherwise, if one was met lately."""
        if self._refused is None or time.monotonic() > self._refused[1] + REFUSAL_S:
            return None
        return self._refused[0]

    async def run(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        """The result of `operation`, within `timeout_ms`.

        Raises RedisUnavailable, whatever went wrong with Redis; a failed operation may still have happened there.
        """
        if not self._breaker.admit():
            self.failures[FailureCause.OPEN] += 1
            raise RedisUnavailable(FailureCause.OPEN)
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await operation(self._client)
        # asyncio.TimeoutError is an OSError
        except (exceptions.RedisError, OSError, *BUGS) as error:
            raise RedisUnavailable(self._record_failure(error)) from error
        finally:
            # a cancelled probe says nothing of Redis: the next call may probe
            self._breaker.release()
        self._breaker.record_success()
        return result

    async def pipeline(self, fill: Callable[[Pipeline], object]) -> list[Any]:
        """The replies to the commands that `fill` queues, sent together and not as a transaction.

        A command that Redis refuses costs the others nothing: in its place stands a RedisUnavailable with the cause,
        counted as a failed call is. Raises RedisUnavailable when the whole got no answer.
        """

        async def send(client: Redis) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                fill(pipe)
                return await pipe.execute(raise_on_error=False)

        replies = await self.run(send)
        return [RedisUnavailable(self._record_failure(r)) if isinstance(r, Exception) else r for r in replies]

    def _record_failure(self, error: BaseException) -> FailureCause:
        """Counts a failure. At most one log line a second."""
        cause = cause_of(error)
        if cause in OPENS_AT_ONCE | OPENS_WHEN_REPEATED:
            self._breaker.record_failure(opens_at_once=cause in OPENS_AT_ONCE)
        else:
            # the server answered: it is alive, it only refuses this command
            self._breaker.record_success()
        self.failures[cause] += 1
        if cause in PERMANENT:
            self._refused = cause, time.monotonic()
        if time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + 1
            totals = {counted.value: count for counted, count in self.failures.items()}
            log.warning("redis_failed", role=self.role, cause=cause.value, error=str(error)[:200], failures=totals)
        return cause

    async def close(self) -> None:
        with suppress(exceptions.RedisError, OSError):
            await self._client.aclose()
