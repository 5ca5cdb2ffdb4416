"""The bypass of the framework's router for POST /recall, /recall/batch and /recall/{arm}.

It saves about a fifth of the event loop's CPU time a request: 259, 246 and 282 us with it, 329, 318 and 351 us without
(three runs of `python -m benchmarks.fast_path`, vectors cached; two cores of an AMD EPYC that other programs used too,
28 November 2026).

Skipped are the framework's own layers (limits of bodies, telemetry, exceptions), the router's walk over all routes, its
dependency solver and the two exit stacks it opens for every request. None of them has work to do here: the handlers
parse their bodies from bytes, which they bound themselves, answer with a finished Response and have no dependencies.
The router still documents these routes and answers every other method.
"""

from collections.abc import Iterable

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import RecallError
from service.http import codec
from service.http.observe import request_id_of

PINNED_PREFIX = "/recall/"


class FastPath:
    """Calls the handlers of POST /recall.. at once and hands every other request on."""

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute]) -> None:
        by_path = {route.path: route for route in routes if route.path.startswith("/recall")}
        self._app = app
        self._pinned = by_path.pop("/recall/{arm}")
        self._fixed = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route, path_values = self._match(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request=request, **path_values)
        except RecallError as error:
            response = codec.problem(error, request_id_of(request))
        await response(scope, receive, send)

    def _match(self, scope: Scope) -> tuple[APIRoute | None, dict[str, str]]:
        """The route of a scope and the values of its path; None = not of this path."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return None, {}
        path: str = scope["path"]
        if route := self._fixed.get(path):
            return route, {}
        arm = path.removeprefix(PINNED_PREFIX)
        return (self._pinned, {"arm": arm}) if arm and arm != path and "/" not in arm else (None, {})
