"""Keys: API keys with scopes where the service has some; else the QA key, which forces a
variation of the experiment, and the admin key, which changes what is served, bundles and items.

With API keys every route needs a key with one of its scopes, in `Authorization: Bearer ..` and nowhere else. They are
checked before anything else of a request is looked at, in one place that stands before the router and before the fast
path, over the very patterns that these match.
"""

import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import Request, Response
from pydantic import SecretStr
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.keys import ApiKey
from service.access.keys import Scope as KeyScope
from service.access.ring import KeyRing
from service.errors import BadRequest, Forbidden, Overloaded, RecallError, Unauthorized
from service.http import codec
from service.http.observe import request_id_of

API_KEY = "recall.api_key"  # its key in the ASGI scope
HEADER, SCHEME = b"authorization", b"bearer "
LISTS, EVENTS, ADMIN = (KeyScope.RECALL,), (KeyScope.FEEDBACK,), (KeyScope.ADMIN,)
WATCH = (KeyScope.MONITOR, KeyScope.ADMIN)
OPEN: tuple[KeyScope, ...] = ()  # probes and the page /docs have no key
# by the path of a route: the scopes of which its caller needs one
NEEDED: dict[str, tuple[KeyScope, ...]] = {
    **dict.fromkeys(("/recall", "/recall/batch", "/recall/{arm}", "/embed"), LISTS),
    **dict.fromkeys(("/feedback", "/feedback/batch"), EVENTS),
    **dict.fromkeys(("/items", "/items/batch", "/items/{item}"), ADMIN),
    **dict.fromkeys(("/admin/reload", "/experiments/{key}/report"), ADMIN),
    **dict.fromkeys(("/metrics", "/arms", "/version"), WATCH),
    **dict.fromkeys(("/health", "/ready", "/docs", "/docs/{name}", "/openapi.json"), OPEN),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A route, the paths that it answers, and the scopes of which its caller needs one."""

    route: Route
    needed: tuple[KeyScope, ...]

    @property
    def pattern(self) -> re.Pattern[str]:
        return self.route.path_regex


class RequireKey:
    """Hands on the requests whose key allows their route, and refuses all others; plain ASGI."""

    def __init__(self, app: ASGIApp, routes: Callable[[], Sequence[Route]], keys: KeyRing) -> None:
        """routes: all that may be reached. Raises KeyError for one whose scopes nobody has written down."""
        self._app, self._keys = app, keys
        self._rules = [Rule(route, NEEDED[route.path]) for route in routes()]
        self._fixed = {rule.route.path: rule for rule in self._rules if not rule.route.param_convertors}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rule = self._rule_of(scope["path"])
        if rule is None:
            # answered here: what no route matches is not handed on, so that nothing gets past unchecked
            await not_found(Request(scope, receive))(scope, receive, send)
            return
        try:
            if rule.needed:
                self._check(scope, rule)
        except RecallError as error:
            await refusal(error, Request(scope, receive))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope, rule: Rule) -> None:
        """Raises Unauthorized, Forbidden, or Overloaded for a key that asks too often."""
        # counted and logged under the route that it wanted
        scope["route"] = rule.route
        wanted = f"{scope['method']} {rule.route.path}"
        secret = secret_of(scope)
        if secret is None:
            raise Unauthorized(f"{wanted} needs an API key, in the header Authorization: Bearer KEY")
        key = self._keys.find(secret)
        if key is None:
            raise Forbidden("the API key is none of this service's")
        if key.scopes.isdisjoint(rule.needed):
            raise Forbidden(f"{wanted} needs an API key with the scope {' or '.join(rule.needed)}")
        if not self._keys.admits(key):
            raise Overloaded("this API key sends more requests a second than it may; try again in a moment")
        scope[API_KEY] = key

    def _rule_of(self, path: str) -> Rule | None:
        # the patterns too: one without parameters also matches its path with a line feed behind it
        return self._fixed.get(path) or next((rule for rule in self._rules if rule.pattern.match(path)), None)


def secret_of(scope: Scope) -> bytes | None:
    """The key that a request bears; None where it bears none."""
    for name, value in scope["headers"]:
        if name == HEADER and value[: len(SCHEME)].lower() == SCHEME:
            secret: bytes = value[len(SCHEME) :].strip()
            return secret
    return None


def refusal(error: RecallError, request: Request) -> Response:
    """The answer to a request that is not handed on."""
    if not isinstance(error, Unauthorized):
        return codec.problem(error, request_id_of(request))
    body = codec.to_problem(error, request_id_of(request))
    return codec.reply(body, error.status, {"WWW-Authenticate": "Bearer"})


def not_found(request: Request) -> Response:
    """The framework's answer to a path that it does not know."""
    return codec.reply(codec.to_problem(BadRequest("Not Found"), request_id_of(request)), 404)


def forced_bucket(request: Request, qa_key: SecretStr | None, pinned: str | None = None) -> str | None:
    """The header X-AB-Bucket, for clients that hold a key for it; None without the header.

    pinned: the arm that the request names itself, which leaves nothing to force. Raises BadRequest for both together,
    Unauthorized when no key is given, Forbidden when it is a wrong one, or when the service has none.
    """
    bucket = request.headers.get("x-ab-bucket")
    if bucket is None:
        return None
    key: ApiKey | None = request.scope.get(API_KEY)
    if key is None:
        _check_key(request, "X-QA-Key", qa_key, "X-AB-Bucket")
    elif KeyScope.QA not in key.scopes:
        raise Forbidden(f"X-AB-Bucket needs an API key with the scope {KeyScope.QA}")
    if pinned is not None:
        raise BadRequest("X-AB-Bucket: the request names its arm itself; leave one of the two out")
    return bucket


def check_admin(request: Request, admin_key: SecretStr | None) -> None:
    """Returns for clients that hold the admin key, or an API key, whose scope was checked before.

    Raises Unauthorized when no key is given, Forbidden when it is a wrong one, or when the service has none.
    """
    if API_KEY not in request.scope:
        _check_key(request, "X-Admin-Key", admin_key, request.url.path)


def _check_key(request: Request, header: str, key: SecretStr | None, right: str) -> None:
    given = request.headers.get(header)
    if key is None:  # said before the caller looks for a key that there is not
        raise Forbidden(f"this service has no --{header.removeprefix('X-').lower()}, so nobody may use {right}")
    if given is None:
        raise Unauthorized(f"{right} needs {header}")
    # compared in constant time
    if not hmac.compare_digest(given.encode(), key.get_secret_value().encode()):
        raise Forbidden(f"{header} does not allow {right}")
