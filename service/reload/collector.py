"""Metrics of reloads: how many, with which result, and the bundle that each arm serves."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.reload.reloader import Reloader


class ReloadCollector(Collector):
    """The counts of a reloader; registered in the process whose engines it changes."""

    def __init__(self, reloader: Reloader) -> None:
        self._reloader = reloader

    def collect(self) -> Iterator[Metric]:
        reloads = CounterMetricFamily(
            "recall_reloads", "Bundles offered to a running service, by result", labels=["arm", "result"]
        )
        for (arm, result), count in self._reloader.results.items():
            reloads.add_metric([arm, result], count)
        served = GaugeMetricFamily("recall_bundle", "1 for the bundle that an arm serves", labels=["arm", "bundle"])
        refused = GaugeMetricFamily(
            "recall_bundle_refused", "1 while the last bundle offered to an arm is a refused one", labels=["arm"]
        )
        canary = GaugeMetricFamily(
            "recall_canary_share", "Share of the users whom a canary answers", labels=["arm", "bundle"]
        )
        overlap = GaugeMetricFamily(
            "recall_reload_overlap",
            "Share of items that the lists of the last bundle offered have in common with those in force then",
            labels=["arm"],
        )
        for arm, likeness in self._reloader.likenesses.items():
            overlap.add_metric([arm], likeness.overlap)
        for state in self._reloader.states():
            served.add_metric([state.arm, state.bundle], 1)
            refused.add_metric([state.arm], state.refusal is not None)
            if state.canary:
                canary.add_metric([state.arm, state.canary.bundle], state.canary.terms.share)
        yield from (reloads, served, refused, canary, overlap)
