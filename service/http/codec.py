"""Between bytes and records: bounded bodies, strict parsing, columns out, one shape for every problem."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import orjson
import ormsgpack
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from model.merging import Merged
from service.engine.arms import Release
from service.errors import BadRequest, BodyTooLarge, MalformedBody, RecallError
from service.http.schemas import RecallRequest
from service.pipeline import RecallQuery, RecallResult
from service.settings import Settings

Model = TypeVar("Model", bound=BaseModel)
JSON, MSGPACK = "application/json", "application/msgpack"
MAX_MESSAGE = 300
RETRY_AFTER_S = "1"
ID_BRANCHES = {"constrained-int", "constrained-str"}  # pydantic's names for the two kinds of id
ID_RULE = "an id is a 64-bit integer or a string of 1 to 128 characters, none of them a control character"


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body, never more than `max_bytes` of it.

    Raises BodyTooLarge before anything is parsed, MalformedBody when the client leaves before its end.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > max_bytes:
                raise BodyTooLarge(f"the body has more than {max_bytes} bytes")
            parts.append(part)
    except ClientDisconnect:
        raise MalformedBody("the client left before the body ended") from None
    return b"".join(parts)


def parse(model: type[Model], body: bytes) -> Model:
    """Raises MalformedBody when it is not JSON, BadRequest when it is not a `model`; neither repeats the input."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def parse_packed(model: type[Model], body: bytes) -> Model:
    """`parse` of a MessagePack body: the same fields, the same rules."""
    try:
        return model.model_validate(ormsgpack.unpackb(body))
    except ValidationError as error:
        raise _refusal(error) from None
    except ValueError:
        raise MalformedBody("the body is not valid MessagePack") from None


def parse_object(model: type[Model], value: Mapping[str, Any]) -> Model:
    """The same for an object that is parsed already (a member of a batch)."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> BadRequest:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return MalformedBody("the body is not valid JSON")
    loc, message = first["loc"], first["msg"]
    # pydantic names the branch of the union it tried last; a client cannot know that
    if first["type"] != "extra_forbidden" and loc and loc[-1] in ID_BRANCHES:
        loc, message = loc[:-1], ID_RULE
    where = ".".join(str(part)[:40] for part in loc[:4]) or "body"
    return BadRequest(f"{where}: {message}"[:MAX_MESSAGE])


def check_bounds(body: RecallRequest, settings: Settings) -> None:
    """Raises BadRequest for lists longer than this service takes."""
    if body.top_n > settings.max_top_n:
        raise BadRequest(f"top_n: at most {settings.max_top_n}")
    for name, ids in (("history", body.history or ()), ("exclude", body.exclude)):
        if len(ids) > settings.max_history:
            raise BadRequest(f"{name}: at most {settings.max_history} ids; send the newest")


def to_query(body: RecallRequest, request_id: str, timeout_ms: float, **how: str | None) -> RecallQuery:
    """how: `forced` or `pinned`."""
    return RecallQuery(
        request_id=request_id,
        user_id=body.user_id,
        history=body.history,
        top_n=body.top_n,
        exclude=body.exclude,
        explain=body.explain,
        deadline=time.monotonic() + timeout_ms / 1e3,
        **how,
    )


def to_columns(answer: RecallResult, explain: bool) -> dict[str, Any]:
    """The body of RecallResponse."""
    arm, assignment, listed = answer.arm, answer.assignment, answer.listed
    experiment = {
        "key": assignment.experiment,
        "assigned": assignment.arm,
        "served": answer.served,
        "reason": assignment.reason,
    }
    columns: dict[str, Any] = {
        "request_id": answer.request_id,
        "bundle": arm.bundle,
        "arm": arm.name,
        "experiment": experiment,
        "items": ids_column(arm, listed),
        "scores": listed.scores,
        "cache": answer.cache,
        "degraded": answer.degraded,
        "timings_ms": {name: round(value, 3) for name, value in answer.timings_ms.items()},
    }
    if explain:
        columns["sources"] = [arm.source_name(source) for source in listed.sources.tolist()]
        columns["prompts"] = answer.prompts
    return columns


def ids_column(arm: Release, listed: Merged) -> Any:
    """Integers as an array, which orjson writes as it is; strings as a list."""
    ids = arm.catalogue.items.column(listed.rows)
    return ids if ids.dtype.kind == "i" else ids.tolist()


def reply(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), status, dict(headers or {}), JSON)


def reply_packed(body: Mapping[str, Any]) -> Response:
    return Response(ormsgpack.packb(body, option=ormsgpack.OPT_SERIALIZE_NUMPY), 200, media_type=MSGPACK)


def to_problem(error: RecallError, request_id: str | None) -> dict[str, Any]:
    """The body of Problem."""
    return {"code": error.code, "message": str(error), "retryable": error.retryable, "request_id": request_id}


def problem(error: RecallError, request_id: str | None) -> Response:
    headers = {"Retry-After": RETRY_AFTER_S} if error.retryable else None
    return reply(to_problem(error, request_id), error.status, headers)


def experiment_headers(answer: RecallResult) -> dict[str, str]:
    """X-AB-*: only where an experiment, or a forced variation of one, decided."""
    assignment = answer.assignment
    if assignment.experiment is None or assignment.variation is None:
        return {}
    return {"X-AB-Experiment": assignment.experiment, "X-AB-Bucket": assignment.variation}


def describe_arm(arm: Release) -> dict[str, Any]:
    """One entry of GET /arms."""
    plan = {**asdict(arm.plan), "digest": arm.plan_digest}
    return {
        "kind": arm.kind,
        "bundle": arm.bundle,
        "num_items": len(arm.catalogue.items),
        "window": arm.window,
        "plan": plan,
    }
