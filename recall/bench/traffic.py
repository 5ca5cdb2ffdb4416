"""The requests that a load consists of, and the outcome of sending them: records without a network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import orjson

JSON = "application/json"
ANSWERED = 0.999  # of what was due, with 200; less is not held
SEEDS = 104_729  # between the seeds of two generators of one load


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A stream of requests: Poisson arrivals, random histories."""

    port: int
    host: str = "127.0.0.1"
    is_tls: bool = False
    ca: str | None = None  # file of the authorities that vouch for the service; None = the system's
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

    def shares(self, count: int) -> "list[Load]":
        """The same load from `count` generators: each has its part of rate and connections, and requests of its own."""
        connections = max(1, self.connections // count)
        share = replace(self, rate=self.rate / count, connections=connections, distinct=-(-self.distinct // count))
        return [replace(share, seed=self.seed + SEEDS * number) for number in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The outcome of one generator's requests that were due after the warm-up, latency by latency."""

    latencies_s: Sequence[float]  # of those answered with 200
    lags_s: Sequence[float]  # how late each request was sent
    refusals_s: Sequence[float] = ()  # of those answered with 429, 503 or 504
    refusals_sent_s: Sequence[float] = ()  # the same from when each was sent, not from when it was due
    statuses: Mapping[str, int]
    due: int
    cpu_s: float
    received_bytes: int


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
    refused_sent_p99_ms: float = 0.0  # the same from when it was sent: without this process's own lateness in sending
    statuses: dict[str, int]
    lost: int  # no answer
    lag_p99_ms: float  # how late this process itself sent
    cpu_us: float  # of this process a request
    received_bytes: int

    @classmethod
    def of(cls, load: Load, samples: Sequence[Sample]) -> "Measured":
        """All generators' requests as one: percentiles are those of all latencies, never means of percentiles."""
        milliseconds = 1e3 * np.concatenate([np.array(sample.latencies_s) for sample in samples])
        lags_ms = 1e3 * np.concatenate([np.array(sample.lags_s) for sample in samples])
        refusals_ms = 1e3 * np.concatenate([np.array(sample.refusals_s) for sample in samples])
        refusals_sent_ms = 1e3 * np.concatenate([np.array(sample.refusals_sent_s) for sample in samples])
        statuses: Counter[str] = Counter()
        for sample in samples:
            statuses.update(sample.statuses)
        due = sum(sample.due for sample in samples)
        # interpolating between infinities would be no number
        shares = np.percentile(milliseconds, [50, 90, 99, 99.9, 100]) if len(milliseconds) else np.full(5, np.inf)
        p50, p90, p99, p999, longest = shares.tolist()
        return cls(
            offered=load.rate,
            completed=round(len(milliseconds) / load.seconds, 1),
            p50_ms=round(p50, 3),
            p90_ms=round(p90, 3),
            p99_ms=round(p99, 3),
            p999_ms=round(p999, 3),
            max_ms=round(longest, 3),
            goodput=round(int((milliseconds <= load.deadline_ms).sum()) / max(due, 1), 5),
            refused_p99_ms=p99_of(refusals_ms),
            refused_sent_p99_ms=p99_of(refusals_sent_ms),
            statuses=dict(sorted(statuses.items())),
            lost=due - sum(statuses.values()),
            lag_p99_ms=p99_of(lags_ms),
            cpu_us=round(sum(sample.cpu_s for sample in samples) / max(due, 1) * 1e6, 1),
            received_bytes=sum(sample.received_bytes for sample in samples),
        )

    def holds(self, p99_ms: float) -> bool:
        """True where (nearly) all that was due was answered with 200, in time."""
        due = self.lost + sum(self.statuses.values())
        # a backlog shows in the p99: latencies count from when a request was due
        return self.statuses.get("200", 0) >= ANSWERED * due > 0 and not self.lost and self.p99_ms <= p99_ms


def p99_of(milliseconds: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> float:
    return round(float(np.percentile(milliseconds, 99)) if len(milliseconds) else 0.0, 3)


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
