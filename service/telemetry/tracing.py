"""Traces for OpenTelemetry: a share of the requests, each with a span a step. Off unless a collector is named.

A request that comes with a `traceparent` is traced as its caller decided, under the caller's span; of the others
`traces_share` are. Which ones is decided before anything of OpenTelemetry is touched, and the spans of a traced request
are made after its answer, from times that are taken anyway: one that is not traced costs a look at its headers.
Spans are sent by a thread of the SDK, from a bounded queue; a collector that is away costs spans and nothing else.
Needs the extra `otel`. No ids of users or items anywhere.
"""

import asyncio
import logging.config
import random
import re
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import structlog

from model import __version__
from service.errors import ConfigurationError
from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind

TRACE = "recall.trace"  # its key in the ASGI scope
TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")  # the W3C's first version
SAMPLED = 1  # of its flags
EXPORT_S, QUEUED_SPANS = 2.0, 4096
FAILURE_S = 60.0  # between two log lines about a collector that is away
ENGINE_STEPS = ("queue", "encode", "search", "merge")  # of a batch, in their order
NS_A_MS = 1_000_000
log = structlog.get_logger()


class FailureHandler(logging.Handler):
    """Says in our log, now and then, what the SDK says of a collector that is away."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + FAILURE_S
            log.warning("traces_not_sent", error=record.getMessage()[:300])


class RequestTrace:
    """One traced request: what is known of it until its spans are made."""

    __slots__ = ("_parent", "_started_ns", "_steps", "_tracing")

    def __init__(self, tracing: "Tracing", parent: tuple[int, int] | None) -> None:
        self._tracing, self._parent, self._started_ns = tracing, parent, time.time_ns()
        self._steps: tuple[int, Mapping[str, float]] | None = None

    def note_steps(self, timings_ms: Mapping[str, float]) -> None:
        """Takes the times of the steps, which have just ended."""
        self._steps = time.time_ns(), timings_ms

    def end(self, route: str, method: str, status: int, request_id: str | None) -> None:
        """Makes the spans."""
        told: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        told |= {"recall.request_id": request_id} if request_id else {}
        root = self._tracing.start(f"{method} {route}", self._parent, self._started_ns, told)
        if self._steps:
            self._make_steps(root, *self._steps)
        root.end(time.time_ns())

    def _make_steps(self, root: "Span", ended_ns: int, timings_ms: Mapping[str, float]) -> None:
        began_ns = ended_ns - ns_of(timings_ms.get("total", 0.0))
        if history_ms := timings_ms.get("history"):
            self._tracing.step("history", root, (began_ns, began_ns + ns_of(history_ms)))
        # the last of the pipeline's steps; those of the engine end with it
        engine = self._tracing.step("engine", root, (ended_ns - ns_of(timings_ms.get("find", 0.0)), ended_ns))
        until_ns = ended_ns
        for name in reversed(ENGINE_STEPS):
            if name in timings_ms:
                since_ns = until_ns - ns_of(timings_ms[name])
                self._tracing.step(name, engine, (since_ns, until_ns))
                until_ns = since_ns


def ns_of(milliseconds: float) -> int:
    return round(milliseconds * NS_A_MS)


class Tracing:
    """The traces of one process."""

    def __init__(self, url: str, share: float) -> None:
        """url: of a collector's OTLP over HTTP, `http://HOST:4318/v1/traces`. Raises ConfigurationError."""
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        except ImportError as error:
            raise ConfigurationError("traces_url needs the extra otel: pip install 'recgpt-recall[otel]'") from error
        handler = {"class": f"{__name__}.{FailureHandler.__name__}"}
        logging.config.dictConfig(
            {
                **{"version": 1, "disable_existing_loggers": False, "handlers": {"failures": handler}},
                "loggers": {"opentelemetry": {"handlers": ["failures"], "propagate": False}},
            }
        )
        resource = Resource.create({"service.name": "recgpt-recall", "service.version": __version__})
        self._share, self._api = share, trace
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUED_SPANS))
        self._tracer = self._provider.get_tracer("recall", __version__)

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> RequestTrace | None:
        """The trace of a request that is to be traced."""
        for name, value in headers:
            if name == b"traceparent" and (given := TRACEPARENT.fullmatch(value)):
                trace_id, span_id, flags = (int(part, 16) for part in given.groups())
                # ids of zeros are none
                if trace_id and span_id:
                    return RequestTrace(self, (trace_id, span_id)) if flags & SAMPLED else None
        return RequestTrace(self, None) if random.random() < self._share else None

    def start(self, name: str, parent: tuple[int, int] | None, since_ns: int, told: Mapping[str, str | int]) -> "Span":
        """The span of a request, which the caller ends."""
        context = self._context_of(*parent) if parent else self._api.set_span_in_context(self._api.INVALID_SPAN)
        kind: SpanKind = self._api.SpanKind.SERVER
        return self._tracer.start_span(name, context, kind, told, start_time=since_ns)

    def step(self, name: str, parent: "Span", span_ns: tuple[int, int]) -> "Span":
        """A step of a request, from one moment to another."""
        context = self._api.set_span_in_context(parent)
        span = self._tracer.start_span(name, context, start_time=span_ns[0])
        span.end(span_ns[1])
        return span

    def _context_of(self, trace_id: int, span_id: int) -> "Context":
        flags = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        caller = self._api.SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
        return self._api.set_span_in_context(self._api.NonRecordingSpan(caller))

    async def close(self) -> None:
        """Sends what is left; a collector that is away holds nobody up for longer than an export."""
        await asyncio.to_thread(self._provider.shutdown)


def open_tracing(settings: Settings) -> Tracing | None:
    """The traces of these settings; None where no collector is named. Raises ConfigurationError."""
    return Tracing(settings.traces_url, settings.traces_share) if settings.traces_url else None
