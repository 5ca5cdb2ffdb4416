"""Reads the bodies of requests: bounded in bytes, not compressed, and given up when the service stops meanwhile.

Those of answers to batches are written here, member by member.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import orjson
import ormsgpack
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from service.errors import BadRequest, BodyTooLarge, MalformedBody, Unavailable, UnsupportedEncoding
from service.http.schemas import FeedbackRequest, RecallRequest

Sessioned = TypeVar("Sessioned", RecallRequest, FeedbackRequest)  # bodies that a session may stand in for the user of
SESSION_HEADER, SESSION_TEXT = "x-session-id", re.compile("[!-~]{1,128}")
JSON, MSGPACK = "application/json", "application/msgpack"


class BodyReader:
    """The bodies that are being read now. Belongs to one event loop."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Timeout] = set()
        self._stop_at: float | None = None

    async def read(self, request: Request, max_bytes: int) -> bytes:
        """The body, never more than `max_bytes` of it.

        Raises UnsupportedEncoding and BodyTooLarge before anything is parsed, MalformedBody when the client leaves
        before the end, Unavailable when the service stops before it.
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise UnsupportedEncoding("the body is compressed (Content-Encoding); send it as it is")
        try:
            async with asyncio.timeout_at(self._stop_at) as limit:
                self._under_way.add(limit)
                try:
                    return await _read(request, max_bytes)
                finally:
                    self._under_way.discard(limit)
        except TimeoutError:
            raise Unavailable("the service stops, and the body has not come to its end") from None
        except ClientDisconnect:
            raise MalformedBody("the client left before the body ended") from None

    def stop(self, grace_s: float) -> None:
        """Gives up, after `grace_s`, whatever has not come to its end by then."""
        self._stop_at = asyncio.get_running_loop().time() + grace_s
        for limit in self._under_way:
            limit.reschedule(self._stop_at)


async def _read(request: Request, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size, is_whole = 0, False
    # not by the framework's stream, a generator that costs most bodies, which come in one message, twice their reading
    while not is_whole:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise BodyTooLarge(f"the body has more than {max_bytes} bytes")
        parts.append(part)
        is_whole = not message.get("more_body", False)
    return b"".join(parts)


def with_session(body: Sessioned, request: Request) -> Sessioned:
    """The body, with the session of the header X-Session-Id. Raises BadRequest for a bad one, or for two sessions."""
    text = request.headers.get(SESSION_HEADER)
    if text is None:
        return body
    if not SESSION_TEXT.fullmatch(text):
        raise BadRequest("X-Session-Id: 1 to 128 printable ASCII characters; the body's session_id takes any")
    if body.session_id is not None and str(body.session_id) != text:
        raise BadRequest("X-Session-Id: the body names another session_id; leave one of the two out")
    return body.model_copy(update={"session_id": text})


def refuse_session_header(request: Request) -> None:
    """Raises BadRequest for a batch with X-Session-Id, which cannot say whose it is."""
    if SESSION_HEADER in request.headers:
        raise BadRequest("X-Session-Id: of a batch each member has its own session_id")


def member_writer(request: Request) -> Callable[[Mapping[str, Any]], bytes]:
    """Writes one member of a batch, so that no single call writes them all: MessagePack or JSON, as accepted."""
    if MSGPACK in request.headers.get("accept", ""):
        return partial(ormsgpack.packb, option=ormsgpack.OPT_SERIALIZE_NUMPY)
    return partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY)


def reply_members(members: Sequence[bytes], request: Request) -> Response:
    """The body of BatchResponse around members that are written already."""
    if MSGPACK in request.headers.get("accept", ""):
        # array 32: a header byte and the count
        head = b"\x81" + ormsgpack.packb("responses") + b"\xdd" + len(members).to_bytes(4, "big")
        return Response(head + b"".join(members), 200, media_type=MSGPACK)
    return Response(b'{"responses":[' + b",".join(members) + b"]}", 200, media_type=JSON)
