"""The URL of a Redis, in each of its forms, and clients of it: one server, a master that Sentinels know, a Cluster.

    redis://[[user]:password@]host[:port][/db]            one server; rediss:// over TLS
    unix:///path?db=0                                     the same through a socket
    redis+sentinel://[[user]:password@]host[:port],host[:port]/service[/db]    rediss+sentinel:// over TLS
    redis+cluster://[[user]:password@]host[:port],host[:port]                  rediss+cluster:// over TLS

Errors never quote a URL: there may be a password in it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

import redis
from redis import asyncio as aio
from redis import exceptions
from redis.asyncio.cluster import ClusterNode as AsyncNode
from redis.asyncio.cluster import RedisCluster as AsyncCluster
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import Sentinel

from service.errors import ConfigurationError

# what a URL may say beside user, password, address and database; bounds and encodings are the service's own
URL_OPTIONS = frozenset({"db", "username", "password", "client_name", "health_check_interval", "socket_keepalive"})
TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
)
SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
REDIS_PORT, SENTINEL_PORT = 6379, 26379
# the slots of a Cluster are learnt within, by a task of their own: a single call has less time
LEARN_S = 2.0
FORMS = (
    "redis://[[user]:password@]host[:port][/db], rediss:// for TLS, unix://path, "
    "redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port, "
    "with special characters of a password as %23 for #, %40 for @"
)


class Mode(StrEnum):
    """The way in which a Redis is run."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A checked URL."""

    mode: Mode
    url: str  # of a server; in the other modes that of the first node, for what is the same for all
    nodes: tuple[tuple[str, int], ...] = ()  # of the Sentinels, or of a Cluster: some of them
    service: str = ""  # the master's name among Sentinels
    of_sentinels: tuple[tuple[str, str], ...] = ()  # user and password of the Sentinels themselves

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of a connection that are the same for every node."""
        given: dict[str, Any] = dict(parse_url(self.url))
        is_tls = given.pop("connection_class", None) is SSLConnection
        return {name: value for name, value in given.items() if name not in ("host", "port")} | {"ssl": is_tls}

    def sentinel_options(self, timeout_s: float) -> dict[str, Any]:
        """The keywords of a connection to a Sentinel, each of which gets a part of the time."""
        tls = {name: value for name, value in self.options.items() if name.startswith("ssl")}
        part_s = timeout_s / (len(self.nodes) + 1)
        return tls | dict(self.of_sentinels) | {"socket_timeout": part_s, "socket_connect_timeout": part_s}


def parse_address(url: str, role: str) -> RedisAddress:
    """The parts of a URL. Raises ConfigurationError, which names the role and never quotes the URL."""
    with usable_url(role):
        parts = urlsplit(url)
        check_options(parts, role)
        scheme, _, mode = parts.scheme.partition("+")
        if not mode:
            parse_url(url)
            return RedisAddress(Mode.SERVER, url)
        if scheme not in ("redis", "rediss"):
            raise ValueError("the scheme")
        return _parse_nodes(parts, scheme, Mode(mode))


def _parse_nodes(parts: SplitResult, scheme: str, mode: Mode) -> RedisAddress:
    """Raises ValueError for what is no address of Sentinels or of a Cluster."""
    access, at, hosts = parts.netloc.rpartition("@")
    port = SENTINEL_PORT if mode is Mode.SENTINEL else REDIS_PORT
    nodes = tuple(_parse_node(host, port) for host in hosts.split(","))
    service, _, database = parts.path.strip("/").partition("/")
    if (mode is Mode.SENTINEL) != bool(service) or (mode is Mode.CLUSTER and database):
        raise ValueError("Sentinels need the name of a service, a Cluster has neither name nor database")
    if database and not database.isdecimal():
        raise ValueError("the database")
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    of_sentinels = tuple((name.partition("_")[2], query.pop(name)) for name in sorted(SENTINEL_OPTIONS & query.keys()))
    base = f"{scheme}://{access}{at}{hosts.split(',')[0]}/{database}?{urlencode(query)}"
    parse_url(base)
    return RedisAddress(mode, base, nodes, service, of_sentinels)


def _parse_node(text: str, port: int) -> tuple[str, int]:
    node = urlsplit(f"//{text}")
    if not node.hostname or node.username is not None:
        raise ValueError("a host")
    return node.hostname, node.port or port


def check_options(parts: SplitResult, role: str) -> None:
    """Raises ConfigurationError for an option that would fail, or change what the service relies on, each request."""
    known = URL_OPTIONS | TLS_OPTIONS if parts.scheme.startswith("rediss") else URL_OPTIONS
    if parts.scheme.endswith("+sentinel"):
        known |= SENTINEL_OPTIONS
    if parts.scheme.endswith("+cluster"):
        known -= {"db", "ssl_ca_path"}
    unknown = [name for name in parse_qs(parts.query, keep_blank_values=True) if name not in known]
    if unknown:
        raise ConfigurationError(
            f"the Redis URL of the {role} role is unusable: it has the option {unknown[0][:40]!r}; "
            f"it may have {', '.join(sorted(known))}"
        )


@contextmanager
def usable_url(role: str) -> Iterator[None]:
    """For the block that reads a URL or makes a client of it. Raises ConfigurationError, which never quotes the URL."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, OSError, exceptions.RedisError, exceptions.RedisClusterException):
        # the error of the library may quote the URL, and so the password in it
        raise ConfigurationError(f"the Redis URL of the {role} role is unusable; it is {FORMS}") from None


@dataclass(frozen=True, slots=True)
class AsyncClients:
    """A client for one event loop, and those beside it that are closed with it."""

    client: aio.Redis | AsyncCluster
    beside: tuple[aio.Redis, ...] = ()  # of Sentinels


def open_async(address: RedisAddress, role: str, timeout_s: float, max_connections: int) -> AsyncClients:
    """Makes a client that never retries; nothing is connected yet. Raises ConfigurationError for options in vain."""
    bounds: dict[str, Any] = {
        "max_connections": max_connections,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        # RESP3, the default of redis-py 8, adds a handshake and refuses servers before 6
        "protocol": 2,
    }
    retry = AsyncRetry(NoBackoff(), 0)
    with usable_url(role):
        if address.mode is Mode.SERVER:
            # the whole call is bounded by who makes it, by a clock that our own busy loop does not run down
            unbounded = {"socket_timeout": None, "socket_connect_timeout": None}
            pool = aio.ConnectionPool.from_url(address.url, retry=retry, **bounds | unbounded)
            # made and thrown away: options that a connection does not take are told now, not by every request
            pool.connection_class(**pool.connection_kwargs)
            return AsyncClients(aio.Redis.from_pool(pool))
        if address.mode is Mode.SENTINEL:
            options = address.sentinel_options(timeout_s) | {"retry": retry, "protocol": 2}
            manager = AsyncSentinel(address.nodes, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
            client = manager.master_for(address.service, retry=retry, **address.options, **bounds)
            return AsyncClients(client, tuple(manager.sentinels))
        nodes = [AsyncNode(host, port) for host, port in address.nodes]
        # a call's own deadline is shorter; without the patience the slots would never be learnt on a busy machine
        patience = {"socket_timeout": LEARN_S, "socket_connect_timeout": LEARN_S}
        options = {**address.options, **bounds, **patience}
        cluster = AsyncCluster(startup_nodes=nodes, retry=retry, require_full_coverage=False, **options)
        return AsyncClients(cluster)


def open_blocking(address: RedisAddress, role: str, timeout_s: float) -> redis.Redis | RedisCluster:
    """A client for a thread, which may wait.

    Raises ConfigurationError for options in vain, and redis' exceptions where a Cluster does not answer: its slots are
    asked for at once.
    """
    bounds: Mapping[str, Any] = {"socket_timeout": timeout_s, "protocol": 2}
    if address.mode is Mode.SERVER:
        with usable_url(role):
            return redis.Redis.from_url(address.url, **bounds)
    if address.mode is Mode.SENTINEL:
        options = address.sentinel_options(timeout_s) | {"protocol": 2}
        manager = Sentinel(address.nodes, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        kept = address.options | dict(bounds)
        client: redis.Redis = manager.master_for(address.service, **kept)  # type: ignore[no-untyped-call]
        return client
    nodes = [ClusterNode(host, port) for host, port in address.nodes]  # type: ignore[no-untyped-call]
    return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **address.options, **bounds)
