"""Metric names in one place, one histogram a stage, one structured log line a request.

No ids of users or items anywhere.
"""

import itertools
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from index.watched import Mean
from service.engine.arms import EngineClient
from service.pipeline import RecallResult
from service.telemetry.quality import SAMPLE_ANSWERS, Coverage

BUCKETS = tuple(15e-6 * 2**step for step in range(18))  # 15 us .. 2 s
REQUEST_STAGES = ("history", "queue", "find", "total")
SIZES = tuple(float(2**step) for step in range(10))


class Metrics:
    """Everything that is counted while answering; what components count themselves is read at scrape time."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["arm", "stage"]
        self._stages = Histogram(
            "recall_stage_seconds", "Time of each step", labels, buckets=BUCKETS, registry=self.registry
        )
        self._requests = Counter(
            "recall_requests", "Answers by route and status", ["route", "status"], registry=self.registry
        )
        self._served = Counter(
            "recall_served", "Answers by what served", ["arm", "served", "cache"], registry=self.registry
        )
        self._degraded = Counter(
            "recall_degraded", "Answers that are less, by cause", ["cause"], registry=self.registry
        )
        self._batch = Histogram("recall_batch_size", "Requests a batch", ["arm"], buckets=SIZES, registry=self.registry)
        self._waiting = Gauge(
            "recall_waiting", "Requests left in the queue when a batch starts", ["arm"], registry=self.registry
        )
        self.coverage: dict[str, Coverage] = {}
        self.overlap = Mean()
        self._answers = itertools.count(1)
        # a cached child costs half of .labels()
        self._stage = lru_cache(maxsize=256)(self._stages.labels)
        self._served_as = lru_cache(maxsize=256)(self._served.labels)
        self._responded_as = lru_cache(maxsize=256)(self._requests.labels)

    def answered(self, answer: RecallResult) -> None:
        """What a request has of its own; encode, search and merge are a batch's (`watch`)."""
        for stage in REQUEST_STAGES:
            if stage in answer.timings_ms:
                self._stage(answer.arm.name, stage).observe(answer.timings_ms[stage] / 1e3)
        self._served_as(answer.arm.name, answer.served, answer.cache).inc()
        self.coverage.setdefault(answer.arm.name, Coverage(len(answer.arm.catalogue.items))).add(answer.listed.rows)
        for cause in answer.degraded:
            self._degraded.labels(cause).inc()

    def wants_overlap(self) -> bool:
        """True for one answer in SAMPLE_ANSWERS."""
        return next(self._answers) % SAMPLE_ANSWERS == 0

    def responded(self, route: str, status: int) -> None:
        self._responded_as(route, str(status)).inc()

    def watch(self, arm: str, engine: EngineClient) -> None:
        def on_batch(size: int, waiting: int) -> None:
            self._batch.labels(arm).observe(size)
            self._waiting.labels(arm).set(waiting)

        def on_times(times_ms: dict[str, float]) -> None:
            for stage, milliseconds in times_ms.items():
                self._stage(arm, stage).observe(milliseconds / 1e3)

        engine.on_batch, engine.on_times = on_batch, on_times
