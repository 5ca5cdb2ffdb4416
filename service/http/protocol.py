"""uvicorn's HTTP/1.1 with a bounded head and with the gate before the application.

A request whose headers never end is cut off, and says so in our shape. A request that the gate refuses is answered
here, from its head alone: there is no task and no parsing, so that a service that is asked ten times too much spends
its time on what it admits. A caller who leaves ends the work that is done for them.
"""

import asyncio
from typing import ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.admission.gate import MAX_BYTES, Gate, Lane, Priority, Ticket
from service.errors import HeadTooLarge, MalformedHttp, Overloaded, RecallError, RequestTooSlow
from service.http.codec import RETRY_AFTER_S, to_problem
from service.http.tickets import BUSY, TICKET, lane_of, priority_named

MAX_HEADERS, MAX_HEAD_BYTES = 100, 64 * 1024
RECEIVE_S = 8  # for a whole request, from its first byte or from the connection on
REASONS = {
    MalformedHttp.status: b"Bad Request",
    RequestTooSlow.status: b"Request Timeout",
    HeadTooLarge.status: b"Request Header Fields Too Large",
}


def refusal(keeps_open: bool) -> bytes:
    """The whole answer to a request that is not admitted."""
    body = orjson.dumps(to_problem(Overloaded(BUSY), None))
    connection = b"" if keeps_open else b"connection: close\r\n"
    head = b"HTTP/1.1 %d Too Many Requests\r\ncontent-type: application/json\r\nretry-after: %s\r\n%s"
    length = b"content-length: %d\r\n\r\n" % len(body)
    return head % (Overloaded.status, RETRY_AFTER_S.encode(), connection) + length + body


REFUSAL, LAST_REFUSAL = refusal(True), refusal(False)


class BoundedProtocol(HttpToolsProtocol):
    """One connection; httptools itself would collect headers without end."""

    gate: ClassVar[Gate]  # of a subclass, one a server
    _ticket: Ticket | None = None  # of the request under way
    _is_refused = False  # the request whose body comes now was not admitted

    _is_head = True  # the head of a request has not come to its end
    _is_whole = False  # a request has come to its end, and no other has begun
    _patience: asyncio.TimerHandle | None = None  # runs while a request is awaited, or comes in pieces
    _head_bytes = _num_headers = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self.loop.call_later(RECEIVE_S, self._lose_patience)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # a request that comes in one piece, as most do, costs no timer
        if self._is_whole and self._patience:
            self._patience.cancel()
            self._patience = None
        elif not self._is_whole and not self._patience and not self.transport.is_closing():
            self._patience = self.loop.call_later(RECEIVE_S, self._lose_patience)
        if self._is_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge(f"the request's head has more than {MAX_HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        self._is_head, self._head_bytes, self._num_headers, self._is_whole = True, 0, 0, False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        if self._num_headers > MAX_HEADERS:
            # httptools stops here, and uvicorn answers by send_400_response
            raise HeadTooLarge(f"the request has more than {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_head, self._is_refused, self._ticket = False, False, None
        lane = lane_of(self.url) if self.parser.get_method() == b"POST" else None
        # one that comes before the last was answered waits its turn, and is asked for its ticket then
        if lane and (self.cycle is None or self.cycle.response_complete) and not self._admit(lane):
            return
        super().on_headers_complete()

    def _admit(self, lane: Lane) -> bool:
        num_bytes, priority, expects = None, Priority.NORMAL, False
        for name, value in self.headers:
            if name == b"content-length" and value.isdigit():
                num_bytes = int(value)
            elif name == b"x-priority":
                priority = priority_named(value) or Priority.NORMAL
            elif name == b"expect":
                expects = True
        self._ticket = self.gate.admit(lane, priority, num_bytes)
        if self._ticket:
            self.scope[TICKET] = self._ticket  # type: ignore[literal-required]
            return True
        self._is_refused = True
        # a body that is long, or may never come, is not waited for
        is_short = num_bytes is not None and num_bytes <= MAX_BYTES and not expects
        keeps_open = is_short and self.parser.should_keep_alive()
        self.transport.write(REFUSAL if keeps_open else LAST_REFUSAL)
        if not keeps_open:
            self.transport.close()
        return False

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_whole = True
        if not self._is_refused:
            super().on_message_complete()
        elif not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _lose_patience(self) -> None:
        """Closes a connection whose request has not come to its end in time, whatever it drips."""
        self._patience = None
        if not self.transport.is_closing():
            self._refuse(RequestTooSlow(f"the request has not come to its end within {RECEIVE_S} s"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience:
            self._patience.cancel()
        if self._ticket and self.cycle and not self.cycle.response_complete:
            self._ticket.leave()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self._num_headers > MAX_HEADERS:
            self._refuse(HeadTooLarge(f"the request has more than {MAX_HEADERS} headers"))
        else:
            self._refuse(MalformedHttp(msg))

    def _refuse(self, error: RecallError) -> None:
        body = orjson.dumps(to_problem(error, None))
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (error.status, REASONS[error.status], len(body)) + body)
        self.transport.close()
