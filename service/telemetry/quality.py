"""Quality while answers are given: coverage of the catalogue, and the overlap that the shadow comparison measures.

Cheap enough for every request; read when metrics are asked for. Changes no answer.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from index.watched import Mean
from service.engine.arms import Release

WINDOW_S = 3600.0


@dataclass
class Coverage:
    """The share of the catalogue that was in some answer of the last hour or two."""

    num_items: int
    clock: Callable[[], float] = time.monotonic
    _shown: list[NDArray[np.bool_]] = field(default_factory=list)  # this window and the one before
    _since: float = 0.0

    def add(self, rows: NDArray[np.int64]) -> None:
        """Counts rows of one answer; items that came after the bundle are no part of its catalogue."""
        now = self.clock()
        if not self._shown or now - self._since >= WINDOW_S:
            self._shown, self._since = [np.zeros(self.num_items + 1, dtype=np.bool_), *self._shown[:1]], now
        try:
            self._shown[0][rows] = True
        except IndexError:
            self._shown[0][rows[rows <= self.num_items]] = True

    @property
    def share(self) -> float:
        return float(np.logical_or.reduce(self._shown)[1:].mean()) if self._shown else 0.0


class LiveQuality(Collector):
    """Coverage of each arm and the mean overlap of all arms; a new release of an arm begins anew."""

    def __init__(self) -> None:
        self._coverage: dict[str, tuple[str, Coverage]] = {}  # arm: its bundle, what that has shown
        self.overlap = Mean()

    def answered(self, arm: Release, rows: NDArray[np.int64]) -> None:
        """Counts the rows of one answer."""
        bundle, coverage = self._coverage.get(arm.name, (None, None))
        if coverage is None or bundle != arm.bundle:
            coverage = Coverage(len(arm.catalogue.items))
            self._coverage[arm.name] = arm.bundle, coverage
        coverage.add(rows)

    def collect(self) -> Iterator[Metric]:
        shares = GaugeMetricFamily(
            "recall_coverage", "Share of the catalogue answered in the last one to two hours", labels=["arm"]
        )
        for name, (_, coverage) in self._coverage.items():
            shares.add_metric([name], coverage.share)
        overlap = GaugeMetricFamily("recall_overlap", "Share of items that the arms have in common, sampled", labels=[])
        if self.overlap.count:
            overlap.add_metric([], self.overlap.value)
        yield from (shares, overlap)
