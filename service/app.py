"""create_app(settings): wiring, lifespan and error handlers; no logic. Run it with `recall serve`."""

import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model import __version__
from service import wire
from service.errors import BadRequest, RecallError
from service.openapi import complete_openapi
from service.routes import request_id_of, router
from service.settings import Settings
from service.wiring import Service, open_service

UNMEASURED = {"/health", "/ready", "/metrics"}
log = structlog.get_logger()


def create_app(settings: Settings) -> FastAPI:
    """An ASGI application whose lifespan loads the arms; it answers nothing before they are proven."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings) as service:
            app.state.service = service
            # What was loaded lives as long as the process: the collector need not walk it again and again.
            gc.collect()
            gc.freeze()
            yield
            del app.state.service
            gc.unfreeze()

    app = FastAPI(
        title="recgpt-recall",
        version=__version__,
        lifespan=lifespan,
        description=__doc__.splitlines()[0],
        redirect_slashes=False,  # a redirect would repeat the client's own Host header
    )
    app.include_router(router)
    # the tree of errors.py; whatever else is raised is a bug and says nothing of itself
    app.add_exception_handler(RecallError, _recall_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    app.add_middleware(Observe, service=lambda: getattr(app.state, "service", None))
    app.openapi = partial(complete_openapi, app, settings)  # type: ignore[method-assign]
    return app


async def _recall_error(request: Request, error: Exception) -> Response:
    problem = error if isinstance(error, RecallError) else RecallError("internal error")
    return wire.problem(problem, request_id_of(request))


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown path, wrong method: the framework's own refusals in our shape."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = BadRequest(str(getattr(error, "detail", "refused")))
    headers = getattr(error, "headers", None)
    return wire.reply(wire.to_problem(detail, request_id_of(request)), status, headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.error("internal_error", path=request.url.path, error=repr(error)[:500])
    return wire.problem(RecallError("internal error"), request_id_of(request))


class Observe:
    """One log line and one count a request; plain ASGI: the framework's middleware class costs more than the route."""

    def __init__(self, app: ASGIApp, service: Callable[[], Service | None]) -> None:
        self.inner, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        # 500 stands where the handler broke before it sent anything
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.inner(scope, receive, noting)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        if service := self.service():
            service.metrics.responded(route, status)
        if route not in UNMEASURED:
            request_id = scope.get("state", {}).get("request_id")
            log.info("request", route=route, status=status, ms=round(1e3 * seconds, 2), request_id=request_id)
