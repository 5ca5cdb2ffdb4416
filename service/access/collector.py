"""Metrics of the API keys: who asks, and whether the keys that are there are in force."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.access.ring import KeyRing


class KeyCollector(Collector):
    """The counts of a process's keys: a key that is no longer used may be taken out."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("recall_api_key_requests", "Requests with a key, by its name", labels=["key"])
        for name, count in self._keys.requests.items():
            requests.add_metric([name], count)
        refused = GaugeMetricFamily(
            "recall_api_keys_refused", "Processes in which the file of API keys that is there is a refused one"
        )
        refused.add_metric([], self._keys.refusal is not None)
        yield from (requests, refused)
