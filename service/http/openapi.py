"""The parts of the OpenAPI document that FastAPI cannot see: bodies are parsed from bytes, answers written as bytes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from service.errors import (
    BadRequest,
    BodyTooLarge,
    CatalogueFull,
    DeadlineExceeded,
    EventsUnavailable,
    Forbidden,
    MalformedBody,
    NoEventLog,
    Overloaded,
    RecallError,
    ReloadRefused,
    ReloadUnderWay,
    Unauthorized,
    Unavailable,
    UnknownArm,
    UnsupportedEncoding,
)
from service.http.schemas import (
    BatchRequest,
    Body,
    ChangeResponse,
    ChangesResponse,
    EmbedRequest,
    FeedbackBatch,
    FeedbackRequest,
    ItemBatch,
    ItemBody,
    Problem,
    RecallRequest,
    RecallResponse,
    ReloadBody,
)
from service.settings import Settings


class HealthResponse(Body):
    """The state of every engine."""

    status: Literal["ok", "failing"]
    engines: dict[str, str] = Field(description="By arm: ok, or the error that its engine gives now.")


class ReloadResponse(Body):
    """An arm after a reload that was not refused."""

    arm: str
    bundle: str = Field(description="Digest of the release that is served now.")
    previous: str | None = Field(description="Digest of the release that a roll back puts in its place.")
    changed: bool = Field(description="False: this bundle was served already.")
    seconds: float = Field(description="From the request until the old release had answered all it was asked.")
    canary: str | None = Field(description="Digest of the release on trial.")
    overlap: float | None = Field(
        description="Of its lists with those before, on recorded histories; null = not known."
    )
    compared: int = Field(description="Recorded histories.")


DESCRIPTION = """Candidate generation for a recommender: a user and a history in, the best unseen items out.

Each user belongs to one arm of an A/B experiment, by a hash of the id: `recgpt` generates the next items and searches
with several query vectors, `comirec` searches with several interests. An answer names its arm and the bundle that
computed it, and says in `degraded` why it is less than it could be.

- **recall**: lists of items, for one user or for many; query vectors alone.
- **items**: the catalogue while it is served: items come and go without a new bundle.
- **events**: what users did, kept once; it is the history of the next request that sends none.
- **operations**: health, readiness, metrics and versions.

Every error has one shape, `Problem`: a code, one sentence, and whether trying again can help."""
TAGS = [
    {"name": "recall", "description": "Lists of items for users."},
    {"name": "items", "description": "Items that come and go between two bundles."},
    {"name": "events", "description": "Feedback, which fills the histories."},
    {"name": "operations", "description": "For machines that watch the service and people who run it."},
]
BODIES: tuple[type[BaseModel], ...] = (
    RecallRequest,
    BatchRequest,
    EmbedRequest,
    FeedbackRequest,
    FeedbackBatch,
    ItemBatch,
    ItemBody,
    ReloadBody,
)
COMMON = (
    MalformedBody,
    UnknownArm,
    BodyTooLarge,
    UnsupportedEncoding,
    BadRequest,
    Overloaded,
    EventsUnavailable,
    DeadlineExceeded,
)
HEADERS = (
    (
        "X-Request-Timeout-Ms",
        "Deadline of this request; at most the service's own.",
        {"type": "number", "exclusiveMinimum": 0},
    ),
    (
        "X-Priority",
        "Under overload low ones are refused first, high ones last; left out: normal.",
        {"type": "string", "enum": ["high", "normal", "low"]},
    ),
)
SESSION_HEADERS = (
    (
        "X-Session-Id",
        "The session_id of a body that has none.",
        {"type": "string", "pattern": "^[!-~]+$", "minLength": 1, "maxLength": 128},
    ),
)
QA_HEADERS = (
    ("X-AB-Bucket", "Forces a variation; needs X-QA-Key, is never analysed.", {"type": "string"}),
    ("X-QA-Key", "Key of those who may force a variation.", {"type": "string"}),
)
PRIMARY = "The one metric that decides, declared before the test; left out: plays."
ADMIN_HEADERS = (("X-Admin-Key", "Key of those who may change bundles and items.", {"type": "string"}),)
# of bodies whose routes have no deadline
OTHER_HEADERS = {
    FeedbackRequest: SESSION_HEADERS,
    FeedbackBatch: (),
    ItemBatch: ADMIN_HEADERS,
    ItemBody: ADMIN_HEADERS,
    ReloadBody: ADMIN_HEADERS,
}
AB_HEADERS = {
    "X-AB-Experiment": {"description": "Key of the experiment that decided.", "schema": {"type": "string"}},
    "X-AB-Layers": {
        "description": "KEY=VARIATION of the experiments of other layers, with commas between them.",
        "schema": {"type": "string"},
    },
    "X-AB-Bucket": {"description": "Key of the user's variation.", "schema": {"type": "string"}},
}

Responses = dict[int | str, dict[str, Any]]


def body_of(model: type[BaseModel], with_arm: bool = False) -> dict[str, Any]:
    """The `openapi_extra` of a route that parses its body itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    own = HEADERS + SESSION_HEADERS if model is RecallRequest else HEADERS
    headers = OTHER_HEADERS.get(model, own) + (QA_HEADERS if with_arm else ())
    parameters = [
        {"name": name, "in": "header", "required": False, "description": text, "schema": kind}
        for name, text, kind in headers
    ]
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "parameters": parameters,
    }


def with_problems(model: type[BaseModel], status: int = 200, *more: type[RecallError]) -> Responses:
    """The good answer and every problem a route may give."""
    kinds: tuple[type[RecallError], ...] = (*COMMON, *more)
    problems: Responses = {kind.status: _problem(kind) for kind in kinds}
    return {status: {"model": model, "description": "Answered"}, **problems}


def recall_answers() -> Responses:
    answers = with_problems(RecallResponse, 200, Unauthorized, Forbidden)
    answers[200]["headers"] = AB_HEADERS
    return answers


def reload_answers() -> Responses:
    """The good answer of POST /admin/reload, and the refusals it knows."""
    known = (MalformedBody, Unauthorized, Forbidden, UnknownArm, ReloadUnderWay, BodyTooLarge)
    kinds: tuple[type[RecallError], ...] = (*known, UnsupportedEncoding, ReloadRefused)
    problems: Responses = {kind.status: _problem(kind) for kind in kinds}
    return {200: {"model": ReloadResponse, "description": "Served now"}, **problems}


def item_answers(*more: type[RecallError]) -> Responses:
    """The good answer of a change of the catalogue, and the refusals that it knows."""
    kinds: tuple[type[RecallError], ...] = (Unauthorized, Forbidden, BadRequest, EventsUnavailable, *more)
    problems: Responses = {kind.status: _problem(kind) for kind in kinds}
    return {200: {"model": ChangeResponse, "description": "Kept"}, **problems}


def items_answers() -> Responses:
    """The same of a batch, whose members have problems of their own."""
    kinds = tuple(kind for kind in ITEM_REFUSALS if kind is not CatalogueFull)
    return item_answers(*kinds) | {200: {"model": ChangesResponse, "description": "An entry for each item"}}


def report_answers() -> Responses:
    """The page, and the refusals of GET /experiments/{key}/report."""
    kinds = (Unauthorized, Forbidden, NoEventLog, BadRequest, Overloaded, Unavailable, DeadlineExceeded)
    problems: Responses = {kind.status: _problem(kind) for kind in kinds}
    forms = {"text/html": {"schema": {"type": "string"}}, "application/json": {"schema": {"type": "object"}}}
    page = {"description": "The report", "content": forms}
    return {200: page, **problems}


ITEM_REFUSALS = (MalformedBody, BodyTooLarge, UnsupportedEncoding, CatalogueFull, Overloaded)
REPORT_PARAMETERS = [
    {"name": "primary", "in": "query", "required": False, "description": PRIMARY, "schema": {"type": "string"}},
    {"name": "format", "in": "query", "required": False, "schema": {"type": "string", "enum": ["html", "json"]}},
    {"name": "X-Admin-Key", "in": "header", "required": False, "schema": {"type": "string"}},
]
DELETE_PARAMETERS = [
    {"name": name, "in": "header", "required": False, "description": text, "schema": kind}
    for name, text, kind in ADMIN_HEADERS
]


def _problem(kind: type[RecallError]) -> dict[str, Any]:
    return {"model": Problem, "description": (kind.__doc__ or "").strip().splitlines()[0]}


def health_answers() -> Responses:
    """Both answers of GET /health: the body says which engine fails."""
    return {
        200: {"model": HealthResponse, "description": "Every engine computes"},
        503: {"model": HealthResponse, "description": "An engine does not answer"},
    }


def complete_openapi(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Adds the schemas of the bodies to FastAPI's document, with the bounds of this service in them; returns it."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in BODIES], ref_template="#/components/schemas/{model}"
    )
    for model, name, bound in _bounds(settings):
        schemas["$defs"][model.__name__]["properties"][name] |= bound
    document["components"].setdefault("schemas", {}).update(schemas["$defs"])
    return document


KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of the service; the scopes are those of which a route needs one.",
}
FORCED = "Forces a variation; needs a key with the scope qa, is never analysed."
KEY_HEADERS = {name for name, *_ in (*QA_HEADERS, *ADMIN_HEADERS)} - {"X-AB-Bucket"}


def with_keys(document: dict[str, Any], needed: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The document of a service that asks for API keys: their scheme, and what each route needs; returns it.

    needed: by path, the scopes of which a key needs one. The headers of the other keys have no meaning then.
    """
    document["components"]["securitySchemes"] = {"ApiKey": KEY_SCHEME}
    refusals = {str(kind.status): _refusal(kind) for kind in (Unauthorized, Forbidden, Overloaded)}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if "parameters" in operation:
                own = [entry for entry in operation["parameters"] if entry["name"] not in KEY_HEADERS]
                operation["parameters"] = [
                    entry | {"description": FORCED} if entry["name"] == "X-AB-Bucket" else entry for entry in own
                ]
            if needed[path]:
                operation["security"] = [{"ApiKey": [scope]} for scope in needed[path]]
                operation["responses"] = refusals | operation["responses"]
    return document


def _refusal(kind: type[RecallError]) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": _problem(kind)["description"], "content": {"application/json": {"schema": schema}}}


def _bounds(settings: Settings) -> list[tuple[type[BaseModel], str, dict[str, int]]]:
    """The bounds that codec.check_bounds and the routes hold beyond the models."""
    most_ids = {"maxItems": settings.max_history}
    return [
        (RecallRequest, "history", most_ids),
        (RecallRequest, "exclude", most_ids),
        (RecallRequest, "top_n", {"maximum": settings.max_top_n}),
        (EmbedRequest, "history", most_ids),
        (BatchRequest, "requests", {"maxItems": settings.max_batch_requests}),
        (FeedbackBatch, "events", {"maxItems": settings.max_batch_requests}),
        (ItemBatch, "items", {"maxItems": settings.max_batch_requests}),
    ]
