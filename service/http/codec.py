"""Between bytes and records: bounded bodies, strict parsing, columns out, one shape for every problem."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import orjson
import ormsgpack
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from model.attributes.filters import canonical
from model.attributes.table import BadAttribute
from model.ids import RULE
from model.rules import NO_RULES, Boost, Cap, ListRules
from service.catalogue.changes import PutItem
from service.engine.arms import Release
from service.engine.releases import CanaryTerms, ReloadRequest
from service.errors import BadRequest, MalformedBody, RecallError
from service.experiments.conditions import SESSION, UNITS, logged_unit
from service.experiments.exposure import DAY_MS
from service.experiments.feedback import Action, FeedbackEvent
from service.http.bodies import JSON, MSGPACK, BodyReader
from service.http.schemas import BoostBody, FeedbackRequest, ItemBody, RecallRequest, ReloadBody
from service.lists.reasons import columns_of, nearest_of
from service.queries import AnyResult, RecallQuery, RecallResult
from service.settings import Settings
from service.steps.interleaving import join_explained
from service.stores.vector_codec import CachedVectors

Model = TypeVar("Model", bound=BaseModel)
MAX_MESSAGE = 300
MAX_AHEAD_MS, MAX_LOOPS = 300_000, 100  # of a client's clock, and of a video watched again and again
RETRY_AFTER_S = "1"
ID_BRANCHES = {"constrained-int", "constrained-str"}  # pydantic's names for the two kinds of id


def bodies_of(request: Request) -> BodyReader:
    bodies: BodyReader = request.app.bodies
    return bodies


async def read(model: type[Model], request: Request, max_bytes: int) -> Model:
    """The body of a request as a `model`. Raises what BodyReader.read and parse raise."""
    return parse(model, await bodies_of(request).read(request, max_bytes))


async def read_packable(model: type[Model], request: Request, max_bytes: int) -> Model:
    """The same for a route that takes MessagePack too, by content type."""
    body = await bodies_of(request).read(request, max_bytes)
    is_packed = request.headers.get("content-type", "").startswith(MSGPACK)
    return parse_packed(model, body) if is_packed else parse(model, body)


def parse(model: type[Model], body: bytes) -> Model:
    """Raises MalformedBody when it is not JSON, BadRequest when it is not a `model`; neither repeats the input."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def parse_packed(model: type[Model], body: bytes) -> Model:
    """Parses a MessagePack body: the same fields, the same rules."""
    try:
        return model.model_validate(ormsgpack.unpackb(body))
    except ValidationError as error:
        raise _refusal(error) from None
    except ValueError:
        raise MalformedBody("the body is not valid MessagePack") from None


def parse_object(model: type[Model], value: Mapping[str, Any]) -> Model:
    """Checks an object that is parsed already (a member of a batch) by the same rules."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> BadRequest:
    """The refusal of the first thing that is wrong, which does not repeat the input."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return MalformedBody("the body is not valid JSON")
    loc, message = first["loc"], first["msg"]
    # pydantic names the branch of the union it tried last; a client cannot know that
    if first["type"] != "extra_forbidden" and loc and loc[-1] in ID_BRANCHES:
        loc, message = loc[:-1], RULE
    where = ".".join(str(part)[:40] for part in loc[:4]) or "body"
    return BadRequest(f"{where}: {message}"[:MAX_MESSAGE])


def check_bounds(body: RecallRequest, settings: Settings) -> None:
    """Raises BadRequest for lists longer than this service takes."""
    if body.top_n > settings.max_top_n:
        raise BadRequest(f"top_n: at most {settings.max_top_n}")
    check_num_ids("history", body.history or (), settings)
    check_num_ids("exclude", body.exclude, settings)


def check_num_ids(name: str, ids: Collection[object], settings: Settings) -> None:
    if len(ids) > settings.max_history:
        raise BadRequest(f"{name}: at most {settings.max_history} ids; send the newest")


def check_batch_size(name: str, members: Collection[object], settings: Settings) -> None:
    if len(members) > settings.max_batch_requests:
        raise BadRequest(f"{name}: at most {settings.max_batch_requests}")


class Deadline(NamedTuple):
    """The moment by which a request is answered."""

    at: float  # time.monotonic()
    is_named: bool  # by the caller, who does not wait any longer; else it is the service's own


def deadline_of(request: Request, since: float, settings: Settings) -> Deadline:
    """From X-Request-Timeout-Ms, at most the service's own timeout. Raises BadRequest where it is no number above 0."""
    text = request.headers.get("x-request-timeout-ms")
    if text is None:
        return Deadline(since + settings.request_timeout_ms / 1e3, is_named=False)
    try:
        timeout_ms = float(text)
    except ValueError:
        timeout_ms = math.nan
    if not timeout_ms > 0:
        raise BadRequest("X-Request-Timeout-Ms: a number above 0")
    return Deadline(since + min(timeout_ms, settings.request_timeout_ms) / 1e3, is_named=True)


def to_query(
    body: RecallRequest, request_id: str, deadline: Deadline, forced: str | None = None, pinned: str | None = None
) -> RecallQuery:
    """The query of a checked body. Raises BadRequest for attributes that are fields of their own."""
    if taken := body.attributes.keys() & UNITS:
        raise BadRequest(f"attributes: {min(taken)} is a field of its own")
    return RecallQuery(
        request_id=request_id,
        user_id=body.user_id,
        session_id=body.session_id,
        attributes=body.attributes,
        history=body.history,
        top_n=body.top_n,
        exclude=body.exclude,
        explain=body.explain,
        forced=forced,
        pinned=pinned,
        deadline=deadline.at,
        is_patient=not deadline.is_named,
        rules=to_rules(body),
        min_catalogue=body.min_catalogue,
        not_shown=body.not_shown,
    )


def check_plausible(body: FeedbackRequest, now_ms: int, settings: Settings) -> None:
    """Raises BadRequest for an action that cannot have been: its time, the time watched, nobody who did it."""
    if body.user_id is None and body.session_id is None:
        raise BadRequest("user_id: who acted; without one the session_id")
    if body.user_id is None and body.action == "hide":
        raise BadRequest("hide: needs a user_id, whose lists it is about")
    ts_ms = body.ts_ms if body.ts_ms is not None else now_ms
    if ts_ms < now_ms - settings.feedback_days * DAY_MS:
        raise BadRequest(f"ts_ms: more than {settings.feedback_days:g} days ago; it is milliseconds since 1970")
    if ts_ms > now_ms + MAX_AHEAD_MS:
        raise BadRequest("ts_ms: in the future; it is milliseconds since 1970")
    if body.watch_time_ms and body.duration_ms is not None and body.watch_time_ms > MAX_LOOPS * body.duration_ms:
        raise BadRequest(f"watch_time_ms: more than {MAX_LOOPS} times duration_ms")


def to_rules(body: RecallRequest) -> ListRules:
    """The rules of a checked body; NO_RULES itself where it has none. Raises BadRequest for a filter that is none."""
    boosts = [boost for boost in body.boost if boost.weight]
    if not (body.caps or boosts or body.diversity) and body.filter is None and body.outcome is None:
        return NO_RULES
    caps = tuple(Cap(name, most) for name, most in sorted(body.caps.items()))
    text, boosts_of = _filter_of(body.filter, "filter"), tuple(map(_to_boost, boosts))
    return ListRules(text, caps, boosts_of, body.diversity, body.outcome)


def _to_boost(body: BoostBody) -> Boost:
    num_given = sum(value is not None for value in (body.attribute, body.half_life, body.now))
    if num_given != (3 if body.filter is None else 0):
        raise BadRequest("boost: either a filter, or attribute, half_life and now")
    if body.filter is not None:
        return Boost(body.weight, _filter_of(body.filter, "boost.filter"))
    return Boost(body.weight, None, body.attribute, body.half_life or 1.0, body.now or 0.0)


def _filter_of(body: Mapping[str, Any] | None, where: str) -> str | None:
    if body is None:
        return None
    try:
        return canonical(body)
    except BadAttribute as error:
        raise BadRequest(f"{where}: {error}"[:MAX_MESSAGE]) from error


def to_event(body: FeedbackRequest, now_ms: int) -> FeedbackEvent:
    """The event of a checked body; it happened now where the body does not say when."""
    session = None if body.session_id is None else str(body.session_id)
    return FeedbackEvent(
        user=logged_unit(SESSION, session or "") if body.user_id is None else str(body.user_id),
        session=session,
        item=body.item_id,
        action=Action(body.action),
        watch_time_ms=body.watch_time_ms,
        duration_ms=body.duration_ms,
        request_id=body.request_id,
        event_id=body.event_id or "",
        ts_ms=body.ts_ms if body.ts_ms is not None else now_ms,
    )


def to_put(body: ItemBody) -> PutItem:
    return PutItem(
        body.id, None if body.attributes is None else dict(body.attributes), dict(body.vectors), body.expected_watches
    )


def to_reload(body: ReloadBody) -> ReloadRequest:
    """The wish in a body. Raises BadRequest where it names two bundles, or two things to do with one."""
    if body.rollback and body.bundle is not None:
        raise BadRequest("bundle: not together with rollback, which takes the one served before")
    if body.promote and (body.rollback or body.bundle is not None):
        raise BadRequest("promote: by itself, for the canary that is on trial")
    if body.canary and (body.rollback or body.promote):
        raise BadRequest("canary: not together with rollback or promote, which end a trial")
    terms = CanaryTerms(**body.canary.model_dump()) if body.canary else None
    return ReloadRequest(body.arm, body.bundle, body.rollback, terms, body.promote)


def to_columns(result: AnyResult, explain: bool, settings: Settings) -> dict[str, Any]:
    """The body of RecallResponse."""
    own = result.assignment
    columns: dict[str, Any] = {
        "request_id": result.request_id,
        "bundle": result.bundle,
        "arm": result.arm_name,
        "experiment": {"key": own.experiment, "assigned": own.arm, "served": result.served, "reason": own.reason},
        "items": ids_column(result, settings),
        "scores": result.scores,
        "catalogue": result.catalogue,
        "cache": result.cache,
        "degraded": result.degraded,
        "timings_ms": result.timings_ms,
    }
    if explain:
        columns |= join_explained(result, [explained(part, settings) for part in result.parts])
    return columns


def explained(part: RecallResult, settings: Settings) -> dict[str, Any]:
    """The columns that `explain` adds to the list of one arm."""
    reasons = columns_of(part.reasons, part.listed.rows, part.arm.catalogue)
    reasons["similar"] = [listed_ids(own, settings) for own in reasons["similar"]]
    sources = [part.arm.source_name(source, part.outcome) for source in part.listed.sources.tolist()]
    nearest = nearest_of(part.reasons, part.arm.catalogue, lambda ids: listed_ids(ids, settings))
    return {"sources": sources, "prompts": listed_ids(part.prompts, settings), "reasons": reasons, **nearest}


def to_vectors(arm: Release, vectors: CachedVectors, settings: Settings) -> dict[str, Any]:
    """The body of EmbedResponse."""
    listed, prompts = vectors.vectors.tolist(), listed_ids(arm.prompts(vectors), settings)
    return {"bundle": arm.bundle, "arm": arm.name, "vectors": listed, "prompts": prompts}


def ids_column(result: AnyResult, settings: Settings) -> Any:
    """The ids listed: integers as an array, which orjson writes as it is; strings as a list."""
    ids = result.item_ids
    return ids if ids.dtype.kind == "i" and not settings.string_ids else listed_ids(ids.tolist(), settings)


def listed_ids(ids: Sequence[int | str], settings: Settings) -> Sequence[int | str]:
    """The ids as they are, or all as strings where the settings say so."""
    return list(map(str, ids)) if settings.string_ids else ids


def reply(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), status, dict(headers or {}), JSON)


def to_problem(error: RecallError, request_id: str | None) -> dict[str, Any]:
    """The body of Problem."""
    return {"code": error.code, "message": str(error), "retryable": error.retryable, "request_id": request_id}


def problem(error: RecallError, request_id: str | None) -> Response:
    headers = {"Retry-After": RETRY_AFTER_S} if error.retryable else None
    return reply(to_problem(error, request_id), error.status, headers)


def experiment_headers(result: AnyResult) -> dict[str, str]:
    """The headers X-AB-*: only where an experiment, or a forced variation of an experiment, decided."""
    own = result.assignment
    names = ", ".join(f"{each.experiment}={each.variation}" for each in own.crossed)
    told = (("X-AB-Experiment", own.experiment), ("X-AB-Bucket", own.variation), ("X-AB-Layers", names or None))
    return {name: text for name, text in told if text is not None}
