"""uvicorn's HTTP/1.1 with a bounded head: a request whose headers never end is cut off, and says so in our shape."""

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import HeadTooLarge, MalformedHttp, RecallError
from service.http.codec import to_problem

MAX_HEADERS, MAX_HEAD_BYTES = 100, 64 * 1024
REASONS = {MalformedHttp.status: b"Bad Request", HeadTooLarge.status: b"Request Header Fields Too Large"}


class BoundedProtocol(HttpToolsProtocol):
    """One connection; httptools itself would collect headers without end."""

    _is_head = True  # the head of a request has not come to its end
    _head_bytes = _num_headers = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge(f"the request's head has more than {MAX_HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        self._is_head, self._head_bytes, self._num_headers = True, 0, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        if self._num_headers > MAX_HEADERS:
            # httptools stops here, and uvicorn answers by send_400_response
            raise HeadTooLarge(f"the request has more than {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_head = False
        super().on_headers_complete()

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
