"""Metrics of the trials that this process has seen."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.canary.watch import CanaryWatch


class CanaryCollector(Collector):
    """The answers of both bundles of a trial, and how like their lists are."""

    def __init__(self, watch: CanaryWatch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "recall_canary_answers",
            "Answers since a trial began, of the canary and of the bundle in force, by result",
            labels=["arm", "side", "result"],
        )
        overlap = GaugeMetricFamily(
            "recall_canary_overlap", "Share of items that the lists of both have in common, sampled", labels=["arm"]
        )
        for arm, evidence in self._watch.evidence.items():
            for name, side in (("canary", evidence.canary), ("in_force", evidence.in_force)):
                more = evidence.num_raised if side is evidence.canary else 0
                answers.add_metric([arm, name, "good"], side.num_good)
                answers.add_metric([arm, name, "failed"], side.num_failed + more)
            if evidence.num_overlaps:
                overlap.add_metric([arm], evidence.overlap)
        yield from (answers, overlap)
