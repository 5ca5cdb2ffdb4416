"""One Redis, reached in bounded time or not at all: this file decides that Redis is down (its causes: redis_causes.py).

`RedisClient` owns the connection pool of one role and a circuit breaker: a caller waits for at most `timeout_ms`, and
for nothing while the breaker is open. There are five roles: cache, history, events, items, catalogue; what each carries
stands in docs/architecture.md. Knows nothing of keys and values. redis-py's own defaults wait 58.8 s for a frozen
server and 2.7 s for a refused port; here its retries are off and every call has a deadline.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, TypeVar, cast

import structlog
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import RedisCluster

from service.stores.patience import Patience
from service.stores.redis_causes import (
    BUGS,
    OPENS_AT_ONCE,
    OPENS_WHEN_REPEATED,
    PERMANENT,
    TAKES_NOTHING,
    FailureCause,
    cause_of,
)
from service.stores.redis_urls import open_async, parse_address

T = TypeVar("T")
HEARTBEAT_S = 1.0  # after which a silent channel is asked; after twice that it is lost
REFUSAL_S = 60.0  # a refusal is told for so long after the last time it was met
log = structlog.get_logger()


class RedisUnavailable(Exception):  # noqa: N818 - named for what it says; it never reaches a client
    """Redis did not serve this call; `cause` says why. Callers turn it into a miss or into EventsUnavailable."""

    def __init__(self, cause: FailureCause) -> None:
        super().__init__(f"Redis did not serve the call: {cause}")
        self.cause = cause


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


def shortened(text: str) -> str:
    """The beginning and the end of an error's words: between them stand the clients that were tried."""
    return text if len(text) <= 200 else f"{text[:60]} .. {text[-136:]}"


@dataclass(frozen=True, slots=True)
class Script:
    """Lua that Redis runs in one atomic step."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> "Script":
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


ScriptCall = tuple[Sequence[bytes | str], Sequence[bytes | str | int]]  # keys, all of one slot; arguments


class SlotMap:
    """The slots of a Cluster, learnt in a task of its own: that takes longer than a call may."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        self._learning: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Returns once the slots are known. Raises what the client raises; whoever has no more time leaves."""
        if self._learning is None:
            self._learning = asyncio.create_task(self._learn())
        await asyncio.shield(self._learning)

    def forget(self) -> None:
        """Has the slots learnt anew: a node is gone, and another may have taken its place."""
        if self._learning and self._learning.done():
            self._learning = None

    async def _learn(self) -> None:
        # closed first: a client that has learnt once believes it for ever where no retry makes it doubt
        await self._cluster.aclose()
        await self._cluster.initialize()

    async def close(self) -> None:
        if self._learning:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        await self._cluster.aclose()


class RedisClient:
    """Runs operations on one Redis. Belongs to one event loop; `close` it there."""

    def __init__(self, url: str, role: str, limits: RedisLimits = RedisLimits()) -> None:
        """Raises ConfigurationError for a URL that is unusable."""
        self.role, self._timeout_s = role, limits.timeout_ms / 1000
        self._breaker = CircuitBreaker(limits.open_s, limits.max_failures)
        opened = open_async(parse_address(url, role), role, self._timeout_s, limits.max_connections)
        # the commands of both are the same; what a Cluster has not is asked for by methods of this class alone
        self._client = cast(Redis, opened.client)
        self._slots = SlotMap(opened.client) if isinstance(opened.client, RedisCluster) else None
        self._beside = opened.beside
        self._next_log = 0.0
        self._refused: tuple[FailureCause, float] | None = None  # the last refusal that stands, and when it was met
        self.failures: Counter[FailureCause] = Counter()

    @property
    def is_cluster(self) -> bool:
        """True for a Cluster: keys that are used together need the same tag, for example `hist:{recall:feedback}:7`."""
        return self._slots is not None

    @property
    def is_down(self) -> bool:
        """True while the breaker is open: calls fail without being tried."""
        return self._breaker.is_open

    @property
    def refusal(self) -> FailureCause | None:
        """The cause for which a server that answers does not serve, if one was met lately: most last until mended."""
        if self._refused is None or time.monotonic() > self._refused[1] + REFUSAL_S:
            return None
        return self._refused[0]

    async def run(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        """The result of `operation`, within `timeout_ms`, in which an event loop that is busy elsewhere hardly counts.

        Raises RedisUnavailable, whatever went wrong with Redis; a failed operation may still have happened there.
        """
        if not self._breaker.admit():
            self.failures[FailureCause.OPEN] += 1
            raise RedisUnavailable(FailureCause.OPEN)
        try:
            async with Patience(self._timeout_s):
                if self._slots:
                    await self._slots.ready()
                result = await operation(self._client)
        # asyncio.TimeoutError is an OSError
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError, *BUGS) as error:
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

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these keys in order; None where there is none. Raises RedisUnavailable."""
        if self._slots is None:
            # the client never decodes
            return await self.run(lambda client: cast(Awaitable[list[bytes | None]], client.mget(keys)))
        replies = await self.pipeline(lambda pipe: [pipe.get(key) for key in keys])
        return [None if isinstance(reply, RedisUnavailable) else reply for reply in replies]

    async def run_script(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """The replies to calls of a script, as those of `pipeline`. Raises RedisUnavailable when none was answered."""
        if self._slots:
            # which node has the script already nobody knows
            return await self.pipeline(
                lambda pipe: [pipe.eval(script.text, len(keys), *keys, *arguments) for keys, arguments in calls]
            )

        def fill(pipe: Pipeline) -> None:
            pipe.script_load(script.text)  # with every batch: a restarted Redis has forgotten it
            for keys, arguments in calls:
                pipe.evalsha(script.sha, len(keys), *keys, *arguments)

        return (await self.pipeline(fill))[1:]

    async def listen(self, channel: str) -> AsyncGenerator[bytes | None, None]:
        """The messages of a channel, of a server that is no Cluster; None first: from then on none is missed.

        None comes again where some may have been missed. Raises RedisUnavailable when the connection is lost, or silent
        for longer than two heartbeats; the breaker learns nothing from it.
        """
        try:
            async with self._client.pubsub() as connection:
                async with Patience(self._timeout_s):
                    await connection.subscribe(channel)
                is_asked = False
                while True:
                    message = await connection.get_message(timeout=HEARTBEAT_S)
                    if message is None:
                        if is_asked:
                            raise exceptions.TimeoutError("the channel does not answer")
                        await connection.ping()
                    elif message["type"] == "subscribe":
                        yield None
                    elif message["type"] == "message":
                        yield message["data"]
                    is_asked = message is None
        except (exceptions.RedisError, OSError, *BUGS) as error:
            raise RedisUnavailable(cause_of(error)) from error

    def _record_failure(self, error: BaseException) -> FailureCause:
        """Counts a failure. At most one log line a second."""
        cause = cause_of(error)
        if cause in OPENS_AT_ONCE | OPENS_WHEN_REPEATED:
            self._breaker.record_failure(opens_at_once=cause in OPENS_AT_ONCE)
            if self._slots and self._breaker.is_open:
                self._slots.forget()
        else:
            # the server answered: it is alive, it only refuses this command
            self._breaker.record_success()
        self.failures[cause] += 1
        if cause in PERMANENT | TAKES_NOTHING:
            self._refused = cause, time.monotonic()
        if time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + 1
            totals = {counted.value: count for counted, count in self.failures.items()}
            log.warning("redis_failed", role=self.role, cause=cause.value, error=shortened(str(error)), failures=totals)
        return cause

    async def close(self) -> None:
        with suppress(exceptions.RedisError, OSError):
            await (self._slots.close() if self._slots else self._client.aclose())
        for client in self._beside:
            with suppress(exceptions.RedisError, OSError):
                await client.aclose()
