"""Metrics of the arms' computations, read from the current releases when they are asked for."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.engine.arms import ArmSlot


class EngineCollector(Collector):
    """Tokens, eager passes, refusals of graphs, sampled recall of the index: for each arm that counts them here."""

    def __init__(self, arms: Mapping[str, ArmSlot]) -> None:
        self._arms = arms

    def collect(self) -> Iterator[Metric]:
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
        refused = CounterMetricFamily(
            "recall_graph_refused",
            "Requests that a GPU's graph left to the general path, by reason",
            labels=["arm", "reason"],
        )
        for name, slot in self._arms.items():
            # asked anew each time: a reload puts other counters there, and its counts begin at 0, as after a start
            counters = slot.current.counters
            if counters.encoder:
                tokens.add_metric([name, "item"], counters.encoder.num_tokens)
                tokens.add_metric([name, "padding"], counters.encoder.num_padding)
                for reason, count in counters.encoder.num_eager.items():
                    eager.add_metric([name, reason], count)
            for reason, count in (counters.graph_refused or {}).items():
                refused.add_metric([name, reason], count)
            if counters.index_recall and counters.index_recall.count:
                recall.add_metric([name], counters.index_recall.value)
        yield from (tokens, eager, recall, refused)
