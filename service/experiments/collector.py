"""Metrics of the experiments' file."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.experiments.live import LoadResult


class ExperimentLoads(Protocol):
    """The experiments in force, and what became of files that were offered."""

    @property
    def refusal(self) -> str | None: ...
    @property
    def results(self) -> Mapping[LoadResult, int]: ...


class ExperimentsCollector(Collector):
    """The fate of changes of the experiments' file."""

    def __init__(self, experiments: ExperimentLoads) -> None:
        self._experiments = experiments

    def collect(self) -> Iterator[Metric]:
        loads = CounterMetricFamily(
            "recall_experiment_loads", "Changes of the experiments' file, by result, in each process", labels=["result"]
        )
        for result, count in self._experiments.results.items():
            loads.add_metric([result], count)
        refused = GaugeMetricFamily(
            "recall_experiments_refused", "Processes in which the experiments' file that is there is a refused one"
        )
        refused.add_metric([], self._experiments.refusal is not None)
        yield from (loads, refused)
