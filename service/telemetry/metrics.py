"""Metric names in one place, one histogram a stage.

No ids of users or items anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from index.watched import Mean
from service.engine.protocols import DropReason
from service.queries import RecallResult
from service.telemetry.histograms import Histograms
from service.telemetry.quality import LiveQuality

BUCKETS = tuple(15e-6 * 2**step for step in range(18))  # 15 us .. 2 s
REQUEST_STAGES = ("history", "queue", "find", "total")
SIZES = tuple(float(2**step) for step in range(10))


class Metrics:
    """Everything that is counted while answering; the parts register collectors of their own with `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["arm", "stage"]
        self._stages = Histograms("recall_stage_seconds", "Time of each step", labels, BUCKETS)
        self._requests = Counter(
            "recall_requests", "Answers by route and status", ["route", "status"], registry=self.registry
        )
        self._served = Counter(
            "recall_served", "Answers by what served", ["arm", "served", "cache"], registry=self.registry
        )
        self._degraded = Counter(
            "recall_degraded", "Answers that are less, by cause", ["cause"], registry=self.registry
        )
        self._batch = Histograms("recall_batch_size", "Requests a batch", ["arm"], SIZES)
        self._waiting = Gauge(
            "recall_waiting", "Requests left in the queue when a batch starts", ["arm"], registry=self.registry
        )
        self._dropped = Counter(
            "recall_dropped", "Work dropped by an engine, by reason", ["arm", "reason"], registry=self.registry
        )
        self._quality = LiveQuality()
        for collector in (self._stages, self._batch, self._quality):
            self.registry.register(collector)
        # a cached child costs half of .labels()
        self._served_as = lru_cache(maxsize=256)(self._served.labels)
        self._responded_as = lru_cache(maxsize=256)(self._requests.labels)
        self._waiting_of = lru_cache(maxsize=256)(self._waiting.labels)

    @property
    def overlap(self) -> Mean:
        return self._quality.overlap

    def answered(self, result: RecallResult, is_canary: bool = False) -> None:
        """Counts the list of one arm; encode, search and merge are a batch's (`EngineMetrics`)."""
        for stage in REQUEST_STAGES:
            if stage in result.timings_ms:
                self.observe_stage(result.arm.name, stage, result.timings_ms[stage])
        self._served_as(result.arm.name, result.served, result.cache).inc()
        if not is_canary:
            # coverage is that of one catalogue, the one in force
            self._quality.answered(result.arm, result.listed.rows)
        for cause in result.degraded:
            self._degraded.labels(cause).inc()

    def responded(self, route: str, status: int) -> None:
        self._responded_as(route, str(status)).inc()

    def engine(self, arm: str) -> "EngineMetrics":
        """The observer of one arm's engine."""
        return EngineMetrics(self, arm)

    def observe_stage(self, arm: str, stage: str, milliseconds: float) -> None:
        self._stages.labels(arm, stage).observe(milliseconds / 1e3)

    def batch_started(self, arm: str, size: int, num_waiting: int) -> None:
        self._batch.labels(arm).observe(size)
        self._waiting_of(arm).set(num_waiting)

    def work_dropped(self, arm: str, reason: DropReason, count: int) -> None:
        self._dropped.labels(arm, reason).inc(count)

    def render(self) -> str:
        """Prometheus text of this process."""
        return generate_latest(self.registry).decode()


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """Counts the work of one arm's engine; satisfies `EngineObserver`."""

    metrics: Metrics
    arm: str

    def batch_started(self, size: int, num_waiting: int) -> None:
        self.metrics.batch_started(self.arm, size, num_waiting)

    def batch_answered(self, timings_ms: Mapping[str, float]) -> None:
        for stage, milliseconds in timings_ms.items():
            self.metrics.observe_stage(self.arm, stage, milliseconds)

    def work_dropped(self, reason: DropReason, count: int = 1) -> None:
        self.metrics.work_dropped(self.arm, reason, count)
