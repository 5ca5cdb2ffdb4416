"""Metrics of the exposures: written, or dropped because the queue was full."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class ExposureCounters(Protocol):
    """Counts of an exposure log since it was opened."""

    @property
    def written(self) -> int: ...
    @property
    def dropped(self) -> int: ...


class ExposureCollector(Collector):
    """The fate of exposures."""

    def __init__(self, exposures: ExposureCounters) -> None:
        self._exposures = exposures

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily("recall_exposures", "Exposures by fate", labels=["fate"])
        family.add_metric(["written"], self._exposures.written)
        family.add_metric(["dropped"], self._exposures.dropped)
        yield family
