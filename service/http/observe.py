"""A request seen from outside: its id, one log line and one count. No ids of users or items anywhere."""

import asyncio
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping

import structlog
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission.gate import Ticket
from service.http.tickets import TICKET
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import TRACE, TRACEPARENT, RequestTrace, Tracing

LEFT = 499  # the caller left before the answer, as nginx counts it
UNLOGGED_ROUTES = {"/health", "/ready", "/metrics"}  # asked every few seconds by machines
REQUEST_ID = "recall.request_id"  # its key in the ASGI scope
PROCESS_ID, COUNT = os.urandom(10).hex(), itertools.count()  # a random number a request would be a system call each
CALLER_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")  # of a form that cannot forge a line of the log
log = structlog.get_logger()


def caller_ids(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The well-formed ids by which a caller finds this request in the log: its own, and that of its trace."""
    known = dict[str, str]()
    for name, value in headers:
        if name == b"x-request-id" and CALLER_ID.fullmatch(value):
            known["caller_request_id"] = value.decode()
        elif name == b"traceparent" and (trace := TRACEPARENT.fullmatch(value)):
            known["trace_id"] = trace[1].decode()
    return known


def request_id_of(request: Request) -> str:
    """The service's own id of this request, never the client's: it goes into logs and streams."""
    scope = request.scope
    if REQUEST_ID not in scope:
        scope[REQUEST_ID] = f"{PROCESS_ID}{next(COUNT):012x}"
    return str(scope[REQUEST_ID])


def note_steps(request: Request, timings_ms: Mapping[str, float]) -> None:
    """Keeps the times of a request's steps for its trace, where it has one."""
    trace: RequestTrace | None = request.scope.get(TRACE)
    if trace:
        trace.note_steps(timings_ms)


class Observe:
    """Logs and counts every request; plain ASGI, because the framework's middleware class costs more than the route."""

    def __init__(self, app: ASGIApp, metrics: Callable[[], Metrics], tracing: Tracing | None = None) -> None:
        self._app, self._metrics, self._tracing = app, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # answered as a GET; the server, which keeps its own scope, sends the head alone
            scope = {**scope, "method": "GET"}
        ticket: Ticket | None = scope.get(TICKET)
        if ticket:
            ticket.serve_by(asyncio.current_task())
        if self._tracing and (trace := self._tracing.begin(scope["headers"])):
            scope[TRACE] = trace
        # 500 stands where the handler broke before it sent anything
        started, status = time.perf_counter(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if not (ticket and ticket.has_left):
                raise
            status = LEFT
        finally:
            if ticket := scope.get(TICKET):
                ticket.end()
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics().responded(route, status)
        trace: RequestTrace | None = scope.get(TRACE)
        if trace:
            trace.end(route, scope["method"], status, scope.get(REQUEST_ID))
        if route not in UNLOGGED_ROUTES:
            ids = {"request_id": scope.get(REQUEST_ID), **caller_ids(scope["headers"])}
            log.info("request", route=route, status=status, ms=round(1e3 * seconds, 2), **ids)
