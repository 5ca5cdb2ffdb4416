"""The reasons why a Redis does not serve a call, told apart: those that pass, and those that somebody has to mend.

And which of them open the breaker of a client (redis_client.py), at once or when they come again.
"""

from enum import StrEnum
from ssl import SSLError

from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError


class FailureCause(StrEnum):
    """The reason why Redis did not serve a call; the label of the failure counter."""

    REFUSED = "refused"  # nobody listens
    LOADING = "loading"
    AUTH = "auth"  # no password, or a wrong one
    PERMISSION = "permission"  # the user's rights (ACL) do not go so far
    CLUSTER = "cluster"  # keys of several slots in one command, or the URL is none of a Cluster and the server is one
    TLS = "tls"  # the certificate, or the other end speaks none
    NO_MASTER = "no_master"  # no Sentinel names a master of that name that is up
    CLUSTER_DOWN = "cluster_down"  # no node answers for the slot now
    TIMEOUT = "timeout"
    LOST = "lost"  # the connection ended in mid-reply
    MEMORY = "memory"
    READONLY = "readonly"
    DISK = "disk"  # it cannot write to its disk, and takes nothing meanwhile
    ERROR = "error"
    OPEN = "open"  # not tried: the breaker is open
    BUG = "bug"  # neither Redis nor the network: the client library, or this code


OPENS_AT_ONCE = frozenset(
    {
        FailureCause.REFUSED,
        FailureCause.LOADING,
        FailureCause.AUTH,
        FailureCause.TLS,
        FailureCause.NO_MASTER,
        FailureCause.CLUSTER_DOWN,
    }
)
OPENS_WHEN_REPEATED = frozenset({FailureCause.TIMEOUT, FailureCause.LOST})
# somebody has to set something up otherwise: until then each call fails
PERMANENT = frozenset(
    {FailureCause.AUTH, FailureCause.PERMISSION, FailureCause.CLUSTER, FailureCause.TLS, FailureCause.BUG}
)
# these pass by themselves or when somebody makes room; until then the server answers and takes nothing
TAKES_NOTHING = frozenset({FailureCause.MEMORY, FailureCause.READONLY, FailureCause.DISK})
# whatever a library may raise for values it does not expect: trouble with a cache is a miss, never a failed request
BUGS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError, AssertionError)
CAUSES: list[tuple[type[BaseException], FailureCause]] = [
    (exceptions.TimeoutError, FailureCause.TIMEOUT),
    (TimeoutError, FailureCause.TIMEOUT),
    (exceptions.BusyLoadingError, FailureCause.LOADING),
    (exceptions.AuthenticationError, FailureCause.AUTH),
    (exceptions.NoPermissionError, FailureCause.PERMISSION),
    (exceptions.ClusterCrossSlotError, FailureCause.CLUSTER),
    (exceptions.AskError, FailureCause.CLUSTER),  # and MovedError
    (exceptions.ClusterDownError, FailureCause.CLUSTER_DOWN),
    (exceptions.SlotNotCoveredError, FailureCause.CLUSTER_DOWN),
    (exceptions.OutOfMemoryError, FailureCause.MEMORY),
    (exceptions.ReadOnlyError, FailureCause.READONLY),
    (exceptions.MaxConnectionsError, FailureCause.ERROR),
    (ConnectionRefusedError, FailureCause.REFUSED),
    (FileNotFoundError, FailureCause.REFUSED),
    (MasterNotFoundError, FailureCause.NO_MASTER),
    (exceptions.ConnectionError, FailureCause.LOST),
    (OSError, FailureCause.LOST),
]
# a script's refused write arrives as a plain error that quotes the real one; so do those of Sentinels and of nodes that
# were asked for the slots of a Cluster
QUOTED_CAUSES = {
    "AuthenticationError": FailureCause.AUTH,
    "NOAUTH": FailureCause.AUTH,
    "WRONGPASS": FailureCause.AUTH,
    "invalid username-password": FailureCause.AUTH,
    "Authentication required": FailureCause.AUTH,
    "CERTIFICATE_VERIFY_FAILED": FailureCause.TLS,
    "WRONG_VERSION_NUMBER": FailureCause.TLS,
    "UNSUPPORTED_PROTOCOL": FailureCause.TLS,
    "CERTIFICATE_REQUIRED": FailureCause.TLS,
    "UNKNOWN_CA": FailureCause.TLS,
    "Cluster mode is not enabled": FailureCause.CLUSTER,
    "-OOM ": FailureCause.MEMORY,
    "-READONLY ": FailureCause.READONLY,
    "MISCONF ": FailureCause.DISK,
    "-NOPERM ": FailureCause.PERMISSION,
    "NoPermissionError": FailureCause.PERMISSION,
    "has no permissions": FailureCause.PERMISSION,
    "-CROSSSLOT ": FailureCause.CLUSTER,
    "-MOVED ": FailureCause.CLUSTER,
}


def cause_of(error: BaseException) -> FailureCause:
    """The cause behind an exception of redis-py or of the socket."""
    if isinstance(error, exceptions.RedisClusterException) and error.__cause__:
        # no node told the slots: this is what the last of them said
        return cause_of(error.__cause__)
    # these stand for many things, and only their words tell which
    is_vague = isinstance(error, MasterNotFoundError | SSLError) or isinstance(error.__context__, SSLError)
    if is_vague and (quoted := _quoted_cause(error)):
        return quoted
    # redis-py wraps a socket's error, and one of the handshake, in a ConnectionError; the context keeps the first
    for kind, cause in CAUSES:
        if isinstance(error, kind) or isinstance(error.__context__, kind):
            return cause
    unnamed = FailureCause.BUG if isinstance(error, BUGS) else FailureCause.ERROR
    return _quoted_cause(error) or unnamed


def _quoted_cause(error: BaseException) -> FailureCause | None:
    return next((cause for mark, cause in QUOTED_CAUSES.items() if mark in str(error)), None)
