"""uvicorn, started and stopped our way: a refusal to start is an exception, a stop that was asked for is status 0."""

import asyncio
import math
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
import uvloop

from service.access.tls import ServerCertificate
from service.admission.gate import Gate
from service.bootstrap import SWITCH_S
from service.http.app import RecallApp
from service.http.protocol import RECEIVE_S, BoundedProtocol
from service.memory import share_heap

CLOSING = (b"connection", b"close")  # of every answer while the service drains: who keeps a connection opens another
TICK_S = 0.1  # between uvicorn's looks whether it has to end
GRACE_SECONDS = 8  # for requests under way when the service stops
BODY_GRACE_SECONDS = 4.0  # for bodies that have not come to their end by then


class Server(uvicorn.Server):
    """`run` raises what the app's lifespan raises; uvicorn would print the traceback and exit with 3."""

    def __init__(self, app: RecallApp, on_start: Callable[[], Awaitable[None] | None], drain_s: float = 0.0) -> None:
        """drain_s: between SIGTERM and the moment when the port closes, for proxies that ask /ready."""
        super().__init__(
            uvicorn.Config(
                app,
                http=gated(app.gate),
                log_level="warning",
                access_log=False,
                proxy_headers=False,  # no handler asks who the client is or how it came: a layer less a request
                headers=[("x-content-type-options", "nosniff")],
                lifespan="off",
                timeout_graceful_shutdown=GRACE_SECONDS,
                **secured(app.certificate),
            )
        )
        self._app, self._on_start, self._drain_s = app, on_start, drain_s
        self._ticks_left = 0  # of the drain
        self._greeting: asyncio.Task[None] | None = None  # held, or the loop may forget it

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        share_heap()
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            super().run(sockets)
        finally:
            sys.setswitchinterval(before)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with self.capture_signals():
            async with self._app.router.lifespan_context(self._app):
                await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._greeting = asyncio.create_task(self._greet())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drains first where it is told to by SIGTERM; a second signal ends that."""
        if sig == signal.SIGTERM and self._drain_s and not self._app.is_draining:
            self._app.begin_to_drain()
            # at once, and again in each round: the server makes these headers anew now and then
            self.server_state.default_headers.append(CLOSING)
            self._ticks_left = math.ceil(self._drain_s / TICK_S)
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        is_over = await super().on_tick(counter)
        if not self._app.is_draining:
            return is_over
        if CLOSING not in self.server_state.default_headers:
            self.server_state.default_headers.append(CLOSING)
        # counted in rounds of the loop: a machine that keeps it off the cores takes nothing from the time of proxies
        self._ticks_left -= 1
        return is_over or self._ticks_left < 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.bodies.stop(BODY_GRACE_SECONDS)
        await super().shutdown(sockets)

    async def _greet(self) -> None:
        # in a thread where it may block: the greeting of `recall demo` asks this very service
        started = await asyncio.to_thread(self._on_start)
        if started is not None:
            await started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the loop; uvicorn's own raises them once more afterwards, which kills the process."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


FAREWELL_S = 1.0  # for the other end's last word of TLS; uvloop waits for half a minute


class PatientLoop(uvloop.Loop):
    """An event loop whose servers bound a handshake as a request, and a farewell: uvicorn says nothing of either."""

    async def create_server(self, *given: Any, **named: Any) -> asyncio.AbstractServer:  # type: ignore[override]
        named |= {"ssl_handshake_timeout": RECEIVE_S, "ssl_shutdown_timeout": FAREWELL_S}
        return await super().create_server(*given, **named)


def secured(certificate: ServerCertificate | None) -> dict[str, Any]:
    """The options of uvicorn with which it speaks HTTPS."""
    if certificate is None:
        return {}
    context = certificate.context
    return {"loop": f"{__name__}:{PatientLoop.__name__}", "ssl_context_factory": lambda *_: context}


def gated(gate: Gate) -> type[BoundedProtocol]:
    """The protocol of a server's connections, with its gate."""

    return type("GatedProtocol", (BoundedProtocol,), {"gate": gate})
