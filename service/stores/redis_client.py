"""One Redis, reached in bounded time or not at all: this file decides that Redis is down.

`RedisClient` owns the connection pool of one role (cache, history or events) and a circuit breaker: a caller waits for
at most `timeout_ms`, and for nothing while the breaker is open. Knows nothing of keys and values. redis-py's own
defaults wait 58.8 s for a frozen server and 2.7 s for a refused port; here its retries are off and every call has a
deadline.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import structlog
from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.errors import ConfigurationError

T = TypeVar("T")
log = structlog.get_logger()


class FailureCause(StrEnum):
    """The reason why Redis did not serve a call; the label of the failure counter."""

    REFUSED = "refused"  # nobody listens
    LOADING = "loading"
    AUTH = "auth"
    TIMEOUT = "timeout"
    LOST = "lost"  # the connection ended in mid-reply
    MEMORY = "memory"
    READONLY = "readonly"
    ERROR = "error"
    OPEN = "open"  # not tried: the breaker is open


OPENS_AT_ONCE = frozenset({FailureCause.REFUSED, FailureCause.LOADING, FailureCause.AUTH})
OPENS_WHEN_REPEATED = frozenset({FailureCause.TIMEOUT, FailureCause.LOST})


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
    (exceptions.OutOfMemoryError, FailureCause.MEMORY),
    (exceptions.ReadOnlyError, FailureCause.READONLY),
    (exceptions.MaxConnectionsError, FailureCause.ERROR),
    (ConnectionRefusedError, FailureCause.REFUSED),
    (FileNotFoundError, FailureCause.REFUSED),
    (exceptions.ConnectionError, FailureCause.LOST),
    (OSError, FailureCause.LOST),
]
# a script's refused write arrives as a plain error that quotes the real one
QUOTED_CAUSES = {"-OOM ": FailureCause.MEMORY, "-READONLY ": FailureCause.READONLY}


def cause_of(error: BaseException) -> FailureCause:
    """The cause behind an exception of redis-py or of the socket."""
    # redis-py wraps a socket's error, and one of the handshake, in a ConnectionError; the context keeps the first
    for kind, cause in CAUSES:
        if isinstance(error, kind) or isinstance(error.__context__, kind):
            return cause
    return next((cause for mark, cause in QUOTED_CAUSES.items() if mark in str(error)), FailureCause.ERROR)


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
        self.failures: Counter[FailureCause] = Counter()

    def _open_pool(self, url: str, limits: RedisLimits) -> ConnectionPool:
        try:
            return ConnectionPool.from_url(
                url,
                max_connections=limits.max_connections,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=Retry(NoBackoff(), 0),
                # RESP3, the default of redis-py 8, adds a handshake and refuses servers before 6
                protocol=2,
            )
        except ValueError as error:
            raise ConfigurationError(f"the Redis URL of the {self.role} role is unusable: {error}") from error

    @property
    def is_down(self) -> bool:
        """True while the breaker is open: calls fail without being tried."""
        return self._breaker.is_open

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
        except (exceptions.RedisError, OSError) as error:
            raise RedisUnavailable(self.record_failure(error)) from error
        finally:
            # a cancelled probe says nothing of Redis: the next call may probe
            self._breaker.release()
        self._breaker.record_success()
        return result

    def record_failure(self, error: BaseException) -> FailureCause:
        """Counts a failure; also for errors inside a pipeline's reply. At most one log line a second."""
        cause = cause_of(error)
        if cause in OPENS_AT_ONCE | OPENS_WHEN_REPEATED:
            self._breaker.record_failure(opens_at_once=cause in OPENS_AT_ONCE)
        else:
            # the server answered: it is alive, it only refuses this command
            self._breaker.record_success()
        self.failures[cause] += 1
        if time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + 1
            totals = {counted.value: count for counted, count in self.failures.items()}
            log.warning("redis_failed", role=self.role, cause=cause.value, error=str(error)[:200], failures=totals)
        return cause

    async def close(self) -> None:
        with suppress(exceptions.RedisError, OSError):
            await self._client.aclose()
