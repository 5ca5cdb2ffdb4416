"""create_app(settings): wiring, lifespan and error handlers; no logic. Run it with `recall serve`."""

import gc
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model import __version__
from service.bootstrap import Service, open_service
from service.errors import BadRequest, RecallError
from service.http import codec
from service.http.openapi import complete_openapi
from service.http.routes import REQUEST_ID, request_id_of, router
from service.settings import Settings

COLLECTOR = (50_000, 20, 20)
UNMEASURED = {"/health", "/ready", "/metrics"}
log = structlog.get_logger()


def create_app(settings: Settings, engine_address: str | None = None) -> FastAPI:
    """An ASGI application whose lifespan loads the arms; it answers nothing before they are proven.

    engine_address: of the process that computes; None = this one does.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings, engine_address) as service:
            app.state.service = service
            # What was loaded lives as long as the process: the collector need not walk it again and again.
            gc.collect()
            gc.freeze()
            # requests leave no cycles behind: looking for them every 700 objects is a pause in every other batch
            gc.set_threshold(*COLLECTOR)
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
    # added first, so inside of the other: it is observed too
    app.add_middleware(Direct, routes=direct_routes())
    app.add_middleware(Observe, service=lambda: getattr(app.state, "service", None))
    app.openapi = partial(complete_openapi, app, settings)  # type: ignore[method-assign]
    return app


def direct_routes() -> dict[str, APIRoute]:
    """Those of the router that answer POST /recall.."""
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    return {route.path: route for route in routes if route.path.startswith("/recall")}


async def _recall_error(request: Request, error: Exception) -> Response:
    problem = error if isinstance(error, RecallError) else RecallError("internal error")
    return codec.problem(problem, request_id_of(request))


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown path, wrong method: the framework's own refusals in our shape."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = BadRequest(str(getattr(error, "detail", "refused")))
    headers = getattr(error, "headers", None)
    return codec.reply(codec.to_problem(detail, request_id_of(request)), status, headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.error("internal_error", path=request.url.path, error=repr(error)[:500])
    return codec.problem(RecallError("internal error"), request_id_of(request))


class Direct:
    """POST to the routes that are asked thousands of times a second, without the framework's own way to them.

    The same handlers as the router's, which documents them and answers every other method.
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, APIRoute]) -> None:
        self.inner = app
        self._fixed = {path: route for path, route in routes.items() if "{" not in path}
        self._pinned = routes["/recall/{arm}"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope)
        if found is None:
            await self.inner(scope, receive, send)
            return
        scope["route"], given = found
        request = Request(scope, receive)
        try:
            response = await scope["route"].endpoint(request=request, **given)
        except RecallError as error:
            response = codec.problem(error, request_id_of(request))
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[APIRoute, dict[str, str]] | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        path = scope["path"]
        if route := self._fixed.get(path):
            return route, {}
        arm = path.removeprefix("/recall/")
        return (self._pinned, {"arm": arm}) if arm and arm != path and "/" not in arm else None


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
            request_id = scope.get(REQUEST_ID)
            log.info("request", route=route, status=status, ms=round(1e3 * seconds, 2), request_id=request_id)
