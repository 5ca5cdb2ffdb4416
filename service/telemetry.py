"""Metric names in one place, one histogram a stage, one structured log line a request.

No ids of users or items anywhere.
"""

import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from model.encoder import UserEncoder
from service.cache import VectorCaches
from service.experiments.exposure import ExposureLog
from service.quality import SAMPLE_ANSWERS, Coverage, Mean, WatchedIndex
from service.recall import Answer, AsksEngine, Recaller
from service.redis_link import RedisLink

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

    def answered(self, answer: Answer) -> None:
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

    def watch(self, arm: str, engine: AsksEngine) -> None:
        def on_batch(size: int, waiting: int) -> None:
            self._batch.labels(arm).observe(size)
            self._waiting.labels(arm).set(waiting)

        def on_times(times_ms: dict[str, float]) -> None:
            for stage, milliseconds in times_ms.items():
                self._stage(arm, stage).observe(milliseconds / 1e3)

        engine.on_batch, engine.on_times = on_batch, on_times


class ComponentCollector(Collector):
    """Reads the counters that engine, cache, Redis links and exposure log keep themselves."""

    def __init__(
        self,
        recaller: Recaller,
        cache: VectorCaches | None,
        links: Iterable[RedisLink],
        exposures: ExposureLog | None,
        metrics: Metrics,
    ) -> None:
        self._recaller, self._cache, self._links, self._exposures = recaller, cache, list(links), exposures
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        dropped = CounterMetricFamily(
            "recall_dropped", "Work dropped by an engine, by reason", labels=["arm", "reason"]
        )
        for name, arm in self._recaller.arms.items():
            for reason, count in arm.engine.dropped.items():
                dropped.add_metric([name, reason], count)
        yield dropped
        yield from self._cache_metrics()
        yield from self._quality_metrics()
        failures = CounterMetricFamily("recall_redis_failures", "Calls Redis did not serve", labels=["role", "cause"])
        for link in self._links:
            for cause, count in link.failures.items():
                failures.add_metric([link.role, cause], count)
        yield failures
        if self._exposures:
            exposures = CounterMetricFamily("recall_exposures", "Exposures by fate", labels=["fate"])
            exposures.add_metric(["written"], self._exposures.written)
            exposures.add_metric(["dropped"], self._exposures.dropped)
            yield exposures

    def _quality_metrics(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily(
            "recall_tokens", "Positions computed: of items, or padding", labels=["arm", "kind"]
        )
        eager = CounterMetricFamily(
            "recall_eager_passes",
            "Passes that ran operation by operation, neither traced nor captured, by reason",
            labels=["arm", "reason"],
        )
        recall = GaugeMetricFamily(
            "recall_index_recall", "Share of exact hits that an approximate index finds, sampled", labels=["arm"]
        )
        for name, arm in self._recaller.arms.items():
            if isinstance(arm.engine.encoder, UserEncoder):
                tokens.add_metric([name, "item"], arm.engine.encoder.num_tokens)
                tokens.add_metric([name, "padding"], arm.engine.encoder.num_padding)
                for reason, count in arm.engine.encoder.num_eager.items():
                    eager.add_metric([name, reason], count)
            if isinstance(arm.engine.index, WatchedIndex) and arm.engine.index.recall.count:
                recall.add_metric([name], arm.engine.index.recall.value)
        coverage = GaugeMetricFamily(
            "recall_coverage", "Share of the catalogue answered in the last one to two hours", labels=["arm"]
        )
        for name, seen in self._metrics.coverage.items():
            coverage.add_metric([name], seen.share)
        overlap = GaugeMetricFamily("recall_overlap", "Share of items that the arms have in common, sampled", labels=[])
        if self._metrics.overlap.count:
            overlap.add_metric([], self._metrics.overlap.value)
        yield from (tokens, eager, recall, coverage, overlap)

    def _cache_metrics(self) -> Iterator[Metric]:
        if self._cache is None:
            return
        lookups = CounterMetricFamily(
            "recall_cache_lookups", "Query vectors asked of the cache, by level", labels=["level", "result"]
        )
        refused = CounterMetricFamily("recall_cache_refused", "Stored values not used", labels=["reason"])
        for level, cache in self._cache.levels.items():
            lookups.add_metric([level, "hit"], cache.hits)
            lookups.add_metric([level, "miss"], cache.misses)
            for reason, count in cache.refused.items():
                refused.add_metric([reason], count)
        yield from (lookups, refused)


AVERAGED = {"recall_coverage", "recall_overlap", "recall_index_recall", "recall_waiting"}  # the rest adds up


def add_up(texts: Sequence[str]) -> bytes:
    """The metrics of several processes as those of one: counts and histograms added, shares averaged."""
    registry = CollectorRegistry()
    registry.register(_Summed(texts))
    return generate_latest(registry)


class _Summed(Collector):
    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
        for family in (one for text in self._texts for one in text_string_to_metric_families(text)):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    key = (sample.name, tuple(sorted(sample.labels.items())))
                    values.setdefault(family.name, {}).setdefault(key, []).append(sample.value)
        for name, metric in families.items():
            for (sample_name, labels), found in values.get(name, {}).items():
                total = sum(found) / (len(found) if name in AVERAGED else 1)
                metric.add_sample(sample_name, dict(labels), total)
            yield metric


def configure_logging(level: str) -> None:
    """JSON lines to standard error output."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
