"""Metrics of the gate: admitted and refused by lane and priority, the limit, and what is under way."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.admission.gate import Gate


class AdmissionCollector(Collector):
    """The counts of a process's gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        gate, labels = self._gate, ["lane", "priority"]
        admitted = CounterMetricFamily("recall_admitted", "Requests that passed the gate", labels=labels)
        refused = CounterMetricFamily("recall_refused", "Requests refused before their body was read", labels=labels)
        for family, counts in ((admitted, gate.admitted), (refused, gate.refused)):
            for (lane, priority), count in counts.items():
                family.add_metric([lane, priority], count)
        limit = GaugeMetricFamily("recall_limit_weight", "Weight that may be under way at once", labels=["lane"])
        under_way = GaugeMetricFamily("recall_under_way_weight", "Weight that is under way", labels=["lane"])
        wait = GaugeMetricFamily(
            "recall_admitted_wait_seconds", "Mean wait of admitted requests for their turn, lately", labels=["lane"]
        )
        for lane, adaptive in gate.limits.items():
            limit.add_metric([lane], adaptive.value)
            under_way.add_metric([lane], gate.under_way[lane])
            wait.add_metric([lane], adaptive.mean_wait_s)
        yield from (admitted, refused, limit, under_way, wait)
