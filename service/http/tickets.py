"""The gate as HTTP sees it: which requests pass it, in which lane, and the ticket that travels in a request's scope."""

import time
from collections.abc import Mapping

from fastapi import Request

from service.admission.gate import Gate, Lane, Priority, Ticket
from service.errors import BadRequest, Overloaded

TICKET = "recall.ticket"  # its key in the ASGI scope
BUSY = "more requests come than are answered in time; try again in a moment"
BATCH_PATH, SINGLE_PATHS = b"/recall/batch", (b"/recall", b"/embed")
NO_TIMES: Mapping[str, float] = {}
PRIORITIES = {priority.value.encode(): priority for priority in Priority}


def lane_of(url: bytes) -> Lane | None:
    """The lane of what is posted to `url`; None for what passes no gate: feedback is kept, operations are watched."""
    path = url.partition(b"?")[0]
    if path == BATCH_PATH:
        return Lane.BATCH
    return Lane.SINGLE if path in SINGLE_PATHS or path.startswith(b"/recall/") else None


def priority_named(value: bytes) -> Priority | None:
    return PRIORITIES.get(value.strip().lower())


def check_priority(request: Request) -> None:
    """Raises BadRequest for a header X-Priority that names none; the gate takes that for a normal one."""
    value = request.headers.get("x-priority")
    if value is not None and priority_named(value.encode("latin-1", "replace")) is None:
        raise BadRequest(f"X-Priority: one of {', '.join(Priority)}")


def ticket_of(request: Request) -> Ticket:
    """The ticket of a request, which the protocol has put there; asked for now where one waited behind another.

    Raises Overloaded where none is given, BadRequest for an unknown priority.
    """
    check_priority(request)
    ticket: Ticket | None = request.scope.get(TICKET)
    if ticket is None:
        gate: Gate = request.app.gate
        lane = lane_of(request.scope["path"].encode()) or Lane.SINGLE
        ticket = request.scope[TICKET] = gate.admit(lane, _priority_of(request), None)
    if ticket is None:
        raise Overloaded(BUSY)
    return ticket


def _priority_of(request: Request) -> Priority:
    return priority_named(request.headers.get("x-priority", "normal").encode("latin-1", "replace")) or Priority.NORMAL


def record_wait(ticket: Ticket, timings_ms: Mapping[str, float] | None = None) -> None:
    """Tells the gate how long a request waited: all of its time but what its own computing and Redis took."""
    told = (timings_ms or NO_TIMES).get
    own_ms = told("history", 0.0) + told("encode", 0.0) + told("search", 0.0) + told("merge", 0.0)
    ticket.record_wait(max(0.0, time.monotonic() - ticket.since - own_ms / 1e3))
