"""The metrics of several processes as those of a single one."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

AVERAGED = {
    "recall_coverage",
    "recall_overlap",
    "recall_index_recall",
    "recall_waiting",
    "recall_admitted_wait_seconds",
    "recall_stream_bytes",
    "recall_stream_oldest_seconds",
    "recall_canary_overlap",
}  # the rest adds up


def add_up(texts: Sequence[str]) -> bytes:
    """The metrics of several processes as those of a single one: counts and histograms added, shares averaged."""
    registry = CollectorRegistry()
    registry.register(_Summed(texts))
    return generate_latest(registry)


class _Summed(Collector):
    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
        for family in (family for text in self._texts for family in text_string_to_metric_families(text)):
            # when a process began to count, a family of its own in this form: of several processes it means nothing
            if family.name.endswith("_created"):
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                values.setdefault(family.name, {}).setdefault(key, []).append(sample.value)
        for name, metric in families.items():
            for (sample_name, labels), samples in values.get(name, {}).items():
                total = sum(samples) / (len(samples) if name in AVERAGED else 1)
                metric.add_sample(sample_name, dict(labels), total)
            yield metric
