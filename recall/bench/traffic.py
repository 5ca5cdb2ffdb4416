"""The requests that a load consists of, and the outcome of sending them: records without a network."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import orjson

JSON = "application/json"
ANSWERED = 0.999  # of what was due, with 200; less is not held


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A stream of requests: Poisson arrivals, random histories."""

    port: int
    host: str = "127.0.0.1"
    path: str = "/recall"
    rate: float = 100.0  # requests a second
    seconds: float = 5.0  # measured
    warmup_s: float = 1.0
    num_items: int = 1000  # ids 0 .. N-1
    history: int = 50
    top_n: int = 100
    users_a_request: int = 1  # above 1: bodies of POST /recall/batch
    arm: str | None = None  # of a batch; single requests name it in the path
    distinct: int = 0  # different histories, asked in turn; 0 = none comes twice
    deadline_ms: float = 100.0  # goodput is what is answered within it
    connections: int = 512
    drain_s: float = 3.0  # what is not answered this long after the last request is lost
    seed: int = 0
    accept: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)  # further ones, such as X-Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The outcome of the requests that were due after the warm-up."""

    offered: float  # requests a second, as asked
    completed: float  # answered with 200, a second
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    goodput: float  # share of all requests answered with 200 within the deadline
    refused_p99_ms: float = 0.0  # of answers with 429, 503 or 504, from when each was due
    statuses: dict[str, int]
    lost: int  # no answer
    lag_p99_ms: float  # how late this process itself sent
    cpu_us: float  # of this process a request
    received_bytes: int

    def holds(self, p99_ms: float) -> bool:
        """True where (nearly) all that was due was answered with 200, in time."""
        due = self.lost + sum(self.statuses.values())
        # a backlog shows in the p99: latencies count from when a request was due
        return self.statuses.get("200", 0) >= ANSWERED * due > 0 and not self.lost and self.p99_ms <= p99_ms


class Bodies:
    """Bytes of whole requests."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._rng = np.random.default_rng(load.seed)
        accept = f"accept: {load.accept}\r\n" if load.accept != JSON else ""
        accept += "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
        self._head = (
            f"POST {load.path} HTTP/1.1\r\nhost: {load.host}\r\ncontent-type: application/json\r\n{accept}"
            "content-length: "
        ).encode()
        self._kept = [self._make() for _ in range(load.distinct)]
        self._turn = 0

    def next(self) -> bytes:
        if not self._kept:
            return self._make()
        self._turn += 1
        return self._kept[self._turn % len(self._kept)]

    def _make(self) -> bytes:
        load = self._load
        histories = self._rng.integers(0, load.num_items, (load.users_a_request, load.history)).tolist()
        users = self._rng.integers(0, 2**40, load.users_a_request).tolist()
        members = [
            {"user_id": user, "history": history, "top_n": load.top_n}
            for user, history in zip(users, histories, strict=True)
        ]
        arm = {"arm": load.arm} if load.arm else {}
        body = orjson.dumps(members[0] if load.users_a_request == 1 else {"requests": members, **arm})
        return b"%s%d\r\n\r\n%s" % (self._head, len(body), body)
