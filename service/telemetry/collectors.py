"""Metrics read at scrape time: what the parts count themselves, and the sum over several processes."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from index.watched import WatchedIndex
from model.encoder import UserEncoder
from service.experiments.exposure import ExposureLog
from service.pipeline import RecallPipeline
from service.stores.redis_client import RedisClient
from service.stores.vector_cache import VectorCaches
from service.telemetry.metrics import Metrics


class ComponentCollector(Collector):
    """Reads the counters that engine, cache, Redis clients and exposure log keep themselves."""

    def __init__(
        self,
        recaller: RecallPipeline,
        cache: VectorCaches | None,
        links: Iterable[RedisClient],
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
