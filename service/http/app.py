"""The ASGI application: routes, middleware, error handlers and the lifespan of the service that they use.

Run it with `recall serve`. No logic: handlers are in routes.py, parts are built by service/bootstrap.py.
"""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from model import __version__
from service.admission.collector import AdmissionCollector
from service.admission.gate import Gate
from service.bootstrap import OpenEngines, Service, freeze_loaded, open_service, register
from service.errors import BadRequest, RecallError
from service.http import codec, docs, operations
from service.http.bodies import BodyReader
from service.http.fast_path import FastPath
from service.http.observe import Observe, request_id_of
from service.http.openapi import DESCRIPTION, TAGS, complete_openapi
from service.http.routes import router
from service.settings import Settings

log = structlog.get_logger()


class RecallApp(FastAPI):
    """The application. Its lifespan opens the service: it answers nothing before the arms are proven."""

    def __init__(self, settings: Settings, open_engines: OpenEngines) -> None:
        """open_engines: in this process (service/engine_process.py) or in another (`engines_at`)."""
        self._settings, self._open_engines = settings, open_engines
        self._service: Service | None = None
        self.bodies = BodyReader()
        self.gate = Gate(settings.target_wait_ms / 1e3)
        super().__init__(
            title="recgpt-recall",
            version=__version__,
            description=DESCRIPTION,
            openapi_tags=TAGS,
            lifespan=lambda _: self._open(),
            docs_url=None,  # the pages of the framework load their scripts from the internet
            redoc_url=None,
            redirect_slashes=False,  # a redirect would repeat the client's own Host header
            # each is called by the one before it, so that the fast path is observed too
            middleware=[
                Middleware(Observe, metrics=lambda: self.service.metrics),
                Middleware(FastPath, routes=[route for route in router.routes if isinstance(route, APIRoute)]),
            ],
            # the tree of errors.py; whatever else is raised is a bug and says nothing of itself
            exception_handlers={
                RecallError: _recall_error,
                HTTPException: _http_error,
                Exception: _internal_error,
            },
        )
        self.include_router(router)
        self.include_router(operations.router)
        self.include_router(docs.router)

    @property
    def service(self) -> Service:
        """The running service. Raises RuntimeError outside the lifespan, where there is none."""
        if self._service is None:
            raise RuntimeError("the service is not running")
        return self._service

    def openapi(self) -> dict[str, Any]:
        return complete_openapi(super().openapi(), self._settings)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with open_service(self._settings, self._open_engines) as service:
            self._service = service
            register(service.metrics, AdmissionCollector(self.gate))
            freeze_loaded()
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
