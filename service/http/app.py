"""The ASGI application: routes, middleware, error handlers and the lifespan of the service that they use.

Run it with `recall serve`. No logic: handlers are in routes.py, parts are built by service/bootstrap.py.
"""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from model import __version__
from service.access.collector import KeyCollector
from service.access.ring import open_keys
from service.access.tls import CertificateCollector, open_certificate
from service.admission.collector import AdmissionCollector
from service.admission.gate import Gate
from service.bootstrap import OpenEngines, Service, open_service, register
from service.errors import BadRequest, RecallError
from service.http import codec, docs, operations
from service.http.auth import NEEDED, RequireKey
from service.http.bodies import BodyReader
from service.http.fast_path import FastPath
from service.http.observe import Observe, request_id_of
from service.http.openapi import DESCRIPTION, TAGS, complete_openapi, with_keys
from service.http.routes import router
from service.memory import freeze_loaded, keep_tidy
from service.settings import Settings
from service.telemetry.tracing import open_tracing

ROUTERS = (router, operations.router, docs.router)
log = structlog.get_logger()


class RecallApp(FastAPI):
    """The application. Its lifespan opens the service: it answers nothing before the arms are proven."""

    def __init__(self, settings: Settings, open_engines: OpenEngines) -> None:
        """open_engines: in this process (service/engine_process.py) or in another (`engines_at`).

        Raises ConfigurationError for API keys or a certificate that cannot be used.
        """
        self._settings, self._open_engines = settings, open_engines
        self._service: Service | None = None
        self.is_draining = False  # told to end: /ready says so, and everything is answered until the port closes
        self.bodies = BodyReader()
        self.gate = Gate(settings.target_wait_ms / 1e3)
        self.keys = open_keys(settings)
        self.certificate = open_certificate(settings)
        self.tracing = open_tracing(settings)
        super().__init__(
            title="recgpt-recall",
            version=__version__,
            description=DESCRIPTION,
            openapi_tags=TAGS,
            lifespan=lambda _: self._open(),
            docs_url=None,  # the pages of the framework load their scripts from the internet
            redoc_url=None,
            redirect_slashes=False,  # a redirect would repeat the client's own Host header
            # the tree of errors.py; whatever else is raised is a bug and says nothing of itself
            exception_handlers={
                RecallError: _recall_error,
                HTTPException: _http_error,
                Exception: _internal_error,
            },
        )
        for part in ROUTERS:
            self.include_router(part)
        self._entrance = self._observed(super().__call__)

    def _observed(self, framework: ASGIApp) -> ASGIApp:
        """The layers that a request meets: its count, the answer to a bug, its key, the fast path, the framework."""
        app: ASGIApp = FastPath(framework, [route for route in router.routes if isinstance(route, APIRoute)])
        if self.keys:
            # without keys nothing stands in a request's way
            app = RequireKey(app, routes=self._all_routes, keys=self.keys)
        return Observe(ServerErrorMiddleware(app, _internal_error), lambda: self.service.metrics, self.tracing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # before the framework's own layers, which cost the fast path 13 us a request and have no work there
        scope["app"] = self
        await self._entrance(scope, receive, send)

    @property
    def service(self) -> Service:
        """The running service. Raises RuntimeError outside the lifespan, where there is none."""
        if self._service is None:
            raise RuntimeError("the service is not running")
        return self._service

    def begin_to_drain(self) -> None:
        """Lets /ready say that the service is going, so that proxies send nothing more."""
        self.is_draining = True

    def _all_routes(self) -> list[Route]:
        """Every route: the app's own and those of its routers, which it may keep as they are."""
        parts = [self.routes, *(part.routes for part in ROUTERS)]
        return [route for routes in parts for route in routes if isinstance(route, Route)]

    def openapi(self) -> dict[str, Any]:
        document = complete_openapi(super().openapi(), self._settings)
        return with_keys(document, NEEDED) if self.keys else document

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self.tracing:
                stack.push_async_callback(self.tracing.close)
            service = await stack.enter_async_context(open_service(self._settings, self._open_engines))
            self._service = service
            register(service.metrics, AdmissionCollector(self.gate))
            if self.keys:
                register(service.metrics, KeyCollector(self.keys))
                stack.callback(asyncio.create_task(self.keys.watch()).cancel)
            if self.certificate:
                register(service.metrics, CertificateCollector(self.certificate.facts))
                stack.callback(asyncio.create_task(self.certificate.watch()).cancel)
            freeze_loaded()
            stack.callback(asyncio.create_task(keep_tidy()).cancel)
            yield
            self._service = None
            gc.unfreeze()


def create_app(settings: Settings, open_engines: OpenEngines) -> RecallApp:
    return RecallApp(settings, open_engines)


async def _recall_error(request: Request, error: Exception) -> Response:
    problem = error if isinstance(error, RecallError) else RecallError("internal error")
    return codec.problem(problem, request_id_of(request))


async def _http_error(request: Request, error: Exception) -> Response:
    """The framework's own refusals (unknown path, wrong method) in the shape of all problems."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = BadRequest(str(getattr(error, "detail", "refused")))
    headers = getattr(error, "headers", None)
    return codec.reply(codec.to_problem(detail, request_id_of(request)), status, headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.error("internal_error", path=request.url.path, error=repr(error)[:500])
    return codec.problem(RecallError("internal error"), request_id_of(request))
