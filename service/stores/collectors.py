"""Metrics of the stores: look-ups of query vectors, and calls that Redis did not serve."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from service.stores.redis_client import RedisClient
from service.stores.vector_cache import VectorCaches


class CacheCollector(Collector):
    """The counters that the levels of a vector cache keep; without a cache there is nothing to tell."""

    def __init__(self, cache: VectorCaches | None) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        if self._cache is None:
            return
        lookups = CounterMetricFamily(
            "recall_cache_lookups", "Query vectors asked of the cache, by level", labels=["level", "result"]
        )
        refused = CounterMetricFamily("recall_cache_refused", "Stored values not used", labels=["reason"])
        for name, level in self._cache.levels.items():
            lookups.add_metric([name, "hit"], level.hits)
            lookups.add_metric([name, "miss"], level.misses)
            for reason, count in level.refused.items():
                refused.add_metric([reason], count)
        yield from (lookups, refused)


class RedisCollector(Collector):
    """The failures that each Redis client counts."""

    def __init__(self, clients: Sequence[RedisClient]) -> None:
        self._clients = clients

    def collect(self) -> Iterator[Metric]:
        failures = CounterMetricFamily("recall_redis_failures", "Calls Redis did not serve", labels=["role", "cause"])
        for client in self._clients:
            for cause, count in client.failures.items():
                failures.add_metric([client.role, cause], count)
        yield failures
