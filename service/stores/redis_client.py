"""One Redis, reached in bounded time or not at all.

`RedisLink` owns the connection pool of one role (cache or events) and a circuit breaker: a caller waits for at most
`timeout_ms`, and for nothing while the breaker is open. Knows nothing of keys and values. redis-py's own defaults wait
58.8 s for a frozen server and 2.7 s for a refused port; here its retries are off and every call has a deadline.
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


class Cause(StrEnum):
    """Why Redis did not serve a call; the label of the failure counter."""

    REFUSED = "refused"  # nobody listens
    LOADING = "loading"
    AUTH = "auth"
    TIMEOUT = "timeout"
    LOST = "lost"  # the connection ended in mid-reply
    MEMORY = "memory"
    READONLY = "readonly"
    ERROR = "error"
    OPEN = "open"  # not tried: the breaker is open


AT_ONCE = frozenset({Cause.REFUSED, Cause.LOADING, Cause.AUTH})
STRIKES = frozenset({Cause.TIMEOUT, Cause.LOST})


class RedisDown(Exception):  # noqa: N818 - named for what it says; it never reaches a client
    """Redis did not serve this call; `cause` says why. Callers turn it into a miss or into EventsUnavailable."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(f"Redis did not serve the call: {cause}")
        self.cause = cause


KINDS: list[tuple[type[BaseException], Cause]] = [
    (exceptions.TimeoutError, Cause.TIMEOUT),
    (TimeoutError, Cause.TIMEOUT),
    (exceptions.BusyLoadingError, Cause.LOADING),
    (exceptions.AuthenticationError, Cause.AUTH),
    (exceptions.OutOfMemoryError, Cause.MEMORY),
    (exceptions.ReadOnlyError, Cause.READONLY),
    (exceptions.MaxConnectionsError, Cause.ERROR),
    (ConnectionRefusedError, Cause.REFUSED),
    (FileNotFoundError, Cause.REFUSED),
    (exceptions.ConnectionError, Cause.LOST),
    (OSError, Cause.LOST),
]
# a script's refused write arrives as a plain error that quotes the real one
QUOTED = {"-OOM ": Cause.MEMORY, "-READONLY ": Cause.READONLY}


def cause_of(error: BaseException) -> Cause:
    """The cause behind an exception of redis-py or of the socket."""
    # redis-py wraps a socket's error, and one of the handshake, in a ConnectionError; the context keeps the first
    chain = (error, error.__context__)
    for kind, cause in KINDS:
        if any(isinstance(one, kind) for one in chain):
            return cause
    return next((cause for mark, cause in QUOTED.items() if mark in str(error)), Cause.ERROR)


class Breaker:
    """Closed, open for `open_s`, then one probe at a time until a call succeeds."""

    def __init__(self, open_s: float, max_strikes: int) -> None:
        self._open_s, self._max_strikes = open_s, max_strikes
        self._strikes = 0
        self._open_until = 0.0  # 0 = closed
        self._probing = False

    @property
    def is_open(self) -> bool:
        return self._open_until > 0

    def admit(self) -> bool:
        """Whether a call may go out now; an open breaker admits one probe when its time is over."""
        if not self.is_open:
            return True
        if self._probing or time.monotonic() < self._open_until:
            return False
        self._probing = True
        return True

    def succeed(self) -> None:
        self._strikes, self._open_until = 0, 0.0

    def fail(self, at_once: bool) -> None:
        self._strikes += 1
        if at_once or self.is_open or self._strikes >= self._max_strikes:
            self._open_until = time.monotonic() + self._open_s

    def release(self) -> None:
        """The admitted call is over, whatever became of it."""
        self._probing = False


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """The bounds of one link; the defaults suit the cache, events may wait longer."""

    timeout_ms: float = 20  # of one whole call, connecting included
    open_s: float = 1.0
    max_strikes: int = 3  # timeouts or lost connections in a row that open the breaker
    max_connections: int = 64


class RedisLink:
    """Runs operations on one Redis. Belongs to one event loop; `close` it there."""

    def __init__(self, url: str, role: str, limits: LinkLimits = LinkLimits()) -> None:
        self.role, self._timeout_s = role, limits.timeout_ms / 1000
        self._breaker = Breaker(limits.open_s, limits.max_strikes)
        self._client = Redis.from_pool(self._open_pool(url, limits))
        self._next_log = 0.0
        self.failures: Counter[Cause] = Counter()

    def _open_pool(self, url: str, limits: LinkLimits) -> ConnectionPool:
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
    def is_open(self) -> bool:
        """True while calls fail without being tried."""
        return self._breaker.is_open

    async def run(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        """The result of `operation`, within `timeout_ms`.

        Raises RedisDown, whatever went wrong with Redis; a failed operation may still have happened there.
        """
        if not self._breaker.admit():
            self.failures[Cause.OPEN] += 1
            raise RedisDown(Cause.OPEN)
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await operation(self._client)
        # asyncio.TimeoutError is an OSError
        except (exceptions.RedisError, OSError) as error:
            raise RedisDown(self.note(error)) from error
        finally:
            # a cancelled probe says nothing of Redis: the next call may probe
            self._breaker.release()
        self._breaker.succeed()
        return result

    def note(self, error: BaseException) -> Cause:
        """Count a failure; also for errors found inside a pipeline's reply. At most one log line a second."""
        cause = cause_of(error)
        if cause in AT_ONCE | STRIKES:
            self._breaker.fail(at_once=cause in AT_ONCE)
        else:
            # the server answered: it is alive, it only refuses this command
            self._breaker.succeed()
        self.failures[cause] += 1
        if time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + 1
            totals = {one.value: count for one, count in self.failures.items()}
            log.warning("redis_failed", role=self.role, cause=cause.value, error=str(error)[:200], failures=totals)
        return cause

    async def close(self) -> None:
        with suppress(exceptions.RedisError, OSError):
            await self._client.aclose()
