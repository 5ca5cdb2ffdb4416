"""Metrics of the events on their way, and of the streams that keep them."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.events.fullness import StreamLevel


class EventCounters(Protocol):
    """Counts of an outbox since it was opened."""

    @property
    def written(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def spooled(self) -> int: ...
    @property
    def spool_bytes(self) -> int: ...


class StreamLevels(Protocol):
    """The streams as they were measured last."""

    @property
    def levels(self) -> Sequence[StreamLevel]: ...


class EventCollector(Collector):
    """The fate of events, and how full the streams are."""

    def __init__(self, outbox: EventCounters, watch: StreamLevels | None = None) -> None:
        """watch: None where there are no streams."""
        self._outbox, self._watch = outbox, watch

    def collect(self) -> Iterator[Metric]:
        events = CounterMetricFamily("recall_events", "Exposures and shown lists by fate", labels=["fate"])
        for fate in ("written", "spooled", "dropped"):
            events.add_metric([fate], getattr(self._outbox, fate))
        spool = GaugeMetricFamily("recall_spool_bytes", "Events on disk that Redis has not taken yet")
        spool.add_metric([], self._outbox.spool_bytes)
        streams = GaugeMetricFamily(
            "recall_stream_bytes", "Bytes that a stream of events has in Redis", labels=["stream"]
        )
        waiting = GaugeMetricFamily(
            "recall_stream_oldest_seconds", "Since the oldest event of a stream was written", labels=["stream"]
        )
        for level in self._watch.levels if self._watch else ():
            streams.add_metric([level.name], level.num_bytes)
            waiting.add_metric([level.name], level.oldest_s)
        yield from (events, spool, streams, waiting)
