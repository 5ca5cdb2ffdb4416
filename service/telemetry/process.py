"""Metrics of the processes themselves: memory, descriptors, threads, tasks and CPU time, by what the process is.

prometheus_client's own collector has neither a label, so that several processes cannot be told apart once they are
added up, nor the event loop's tasks, whose number shows work that nobody waits for any more.
"""

import asyncio
import os
import resource
import threading
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.telemetry.logging import LogSink

STATM, DESCRIPTORS = "/proc/self/statm", "/proc/self/fd"  # of Linux; elsewhere these two are left out


class ProcessCollector(Collector):
    """One process and its event loop, where it is asked."""

    def __init__(self, kind: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """kind: `service` where one process is all, else `http` or `engine`. loop: None = the one that runs."""
        self._kind, self._loop = kind, loop or asyncio.get_running_loop()

    def collect(self) -> Iterator[Metric]:
        gauges = {
            "threads": ("Threads that Python knows", threading.active_count()),
            "tasks": ("Tasks of the event loop", len(asyncio.all_tasks(self._loop))),
        }
        if os.path.exists(STATM):
            with open(STATM, encoding="ascii") as statm:
                pages = int(statm.read().split()[1])
            gauges["resident_bytes"] = ("Resident memory", pages * resource.getpagesize())
            # without the one that reads the folder
            gauges["open_fds"] = ("Open descriptors", len(os.listdir(DESCRIPTORS)) - 1)
        for name, (text, value) in gauges.items():
            family = GaugeMetricFamily(f"recall_process_{name}", f"{text}, by kind of process", labels=["process"])
            family.add_metric([self._kind], value)
            yield family
        usage = resource.getrusage(resource.RUSAGE_SELF)
        spent = CounterMetricFamily("recall_process_cpu_seconds", "CPU time, by kind of process", labels=["process"])
        spent.add_metric([self._kind], usage.ru_utime + usage.ru_stime)
        lost = CounterMetricFamily("recall_log_lines_lost", "Log lines that could not be written", labels=["process"])
        lost.add_metric([self._kind], LogSink.lost["lines"])
        yield from (spent, lost)
