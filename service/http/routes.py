"""HTTP handlers: read, check, call the spine, answer. No logic of their own."""

import asyncio
import hmac
import itertools
import math
import os
import platform
import time
from typing import Any

import torch
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from model import __version__
from service.bootstrap import Service
from service.errors import BadRequest, Forbidden, RecallError, Unauthorized, UnknownArm
from service.experiments.exposure import Exposure, exposure_id
from service.experiments.feedback import Action, FeedbackEvent
from service.http import codec
from service.http.openapi import body_of, recall_answers, with_problems
from service.http.schemas import (
    BatchRequest,
    BatchResponse,
    EmbedRequest,
    EmbedResponse,
    FeedbackRequest,
    FeedbackResponse,
    RecallRequest,
    RecallResponse,
)
from service.pipeline import RecallQuery, RecallResult
from service.telemetry.collectors import add_up

HEALTH_SECONDS = 1.0
REQUEST_ID = "recall.request_id"  # in the ASGI scope
PROCESS_ID, COUNT = os.urandom(10).hex(), itertools.count()  # a random number a request would be a system call each
router = APIRouter()


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def request_id_of(request: Request) -> str:
    """Ours, never the client's: it goes into logs and streams."""
    scope = request.scope
    if REQUEST_ID not in scope:
        scope[REQUEST_ID] = f"{PROCESS_ID}{next(COUNT):012x}"
    return str(scope[REQUEST_ID])


def timeout_ms(request: Request) -> float:
    """X-Request-Timeout-Ms, at most the service's own."""
    ours = service_of(request).settings.request_timeout_ms
    text = request.headers.get("x-request-timeout-ms")
    if text is None:
        return ours
    try:
        wanted = float(text)
    except ValueError:
        wanted = math.nan
    if not wanted > 0:
        raise BadRequest("X-Request-Timeout-Ms: a number above 0")
    return min(wanted, ours)


def forced_bucket(request: Request) -> str | None:
    """X-AB-Bucket, for those who hold the QA key."""
    bucket = request.headers.get("x-ab-bucket")
    if bucket is None:
        return None
    given, key = request.headers.get("x-qa-key"), service_of(request).settings.qa_key
    # 401 without a key, 403 with a wrong one, compared in constant time
    if given is None:
        raise Unauthorized("X-AB-Bucket needs X-QA-Key")
    if key is None or not hmac.compare_digest(given.encode(), key.get_secret_value().encode()):
        raise Forbidden("X-QA-Key does not allow X-AB-Bucket")
    return bucket


async def answer_one(request: Request, body: RecallRequest, **how: Any) -> RecallResult:
    service = service_of(request)
    codec.check_bounds(body, service.settings)
    ask = codec.to_query(body, how.pop("request_id", None) or request_id_of(request), timeout_ms(request), **how)
    answer = await service.recaller.recall(ask)
    service.metrics.answered(answer)
    expose(service, ask, answer)
    if len(service.recaller.arms) > 1 and service.metrics.wants_overlap():
        compare(service, ask, answer)
    return answer


def compare(service: Service, ask: RecallQuery, answer: RecallResult) -> None:
    """Puts a sampled question to the other arms, after its answer and behind its back."""

    async def measure() -> None:
        share = await service.recaller.overlap(ask, answer)
        if share is not None:
            service.metrics.overlap.add(share)

    task = asyncio.create_task(measure())
    service.background.add(task)
    task.add_done_callback(service.background.discard)


def expose(service: Service, ask: RecallQuery, answer: RecallResult) -> None:
    """Both arms pass here; pinned and forced answers do not count."""
    assignment, now_ms = answer.assignment, int(time.time() * 1e3)
    if service.stores.exposures is None or not assignment.in_experiment or ask.unit is None:
        return
    exposure = Exposure(
        id=exposure_id(assignment, ask.unit, now_ms),
        experiment=assignment.experiment or "",
        phase=assignment.phase,
        unit=ask.unit,
        assigned=assignment.arm,
        served=answer.served,
        reason=assignment.reason,
        request_id=answer.request_id,
        bundle=answer.arm.bundle,
        ts_ms=now_ms,
    )
    service.stores.exposures.record(exposure)


@router.post("/recall", responses=recall_answers(), openapi_extra=body_of(RecallRequest, True), tags=["recall"])
async def recall(request: Request) -> Response:
    """The user's arm answers with its best `top_n` unseen items."""
    body = codec.parse(RecallRequest, await codec.read_body(request, service_of(request).settings.max_body_bytes))
    answer = await answer_one(request, body, forced=forced_bucket(request))
    return codec.reply(codec.to_columns(answer, body.explain), headers=codec.experiment_headers(answer))


@router.post(
    "/recall/batch", responses=with_problems(BatchResponse), openapi_extra=body_of(BatchRequest), tags=["recall"]
)
async def recall_batch(request: Request) -> Response:
    """Many users in one call: order kept, a bad member answered with its own problem. JSON or MessagePack."""
    service = service_of(request)
    timeout_ms(request)  # a bad header is the whole batch's fault, not each member's
    packed = request.headers.get("content-type", "").startswith(codec.MSGPACK)
    parse = codec.parse_packed if packed else codec.parse
    body = parse(BatchRequest, await codec.read_body(request, service.settings.max_batch_body_bytes))
    if len(body.requests) > service.settings.max_batch_requests:
        raise BadRequest(f"requests: at most {service.settings.max_batch_requests}")
    if body.arm is not None and body.arm not in service.recaller.arms:
        raise UnknownArm(f"no arm is called {body.arm!r}")
    members = (
        _member(request, member, f"{request_id_of(request)}-{n}", body.arm) for n, member in enumerate(body.requests)
    )
    found = {"responses": await asyncio.gather(*members)}
    return codec.reply_packed(found) if codec.MSGPACK in request.headers.get("accept", "") else codec.reply(found)


async def _member(request: Request, member: dict[str, Any], request_id: str, pinned: str | None) -> dict[str, Any]:
    try:
        body = codec.parse_object(RecallRequest, member)
        answer = await answer_one(request, body, pinned=pinned, request_id=request_id)
    except RecallError as error:
        return codec.to_problem(error, request_id)
    return codec.to_columns(answer, body.explain)


@router.post(
    "/recall/{arm}", responses=with_problems(RecallResponse), openapi_extra=body_of(RecallRequest), tags=["recall"]
)
async def recall_pinned(arm: str, request: Request) -> Response:
    """One named arm answers; never counted as an exposure."""
    body = codec.parse(RecallRequest, await codec.read_body(request, service_of(request).settings.max_body_bytes))
    answer = await answer_one(request, body, pinned=arm)
    return codec.reply(codec.to_columns(answer, body.explain))


@router.post("/embed", responses=with_problems(EmbedResponse), openapi_extra=body_of(EmbedRequest), tags=["recall"])
async def embed(request: Request) -> Response:
    """Query vectors and generated items alone."""
    service = service_of(request)
    body = codec.parse(EmbedRequest, await codec.read_body(request, service.settings.max_body_bytes))
    name = body.arm or next(iter(service.recaller.arms))
    if name not in service.recaller.arms:
        raise UnknownArm(f"no arm is called {name!r}")
    if len(body.history) > service.settings.max_history:
        raise BadRequest(f"history: at most {service.settings.max_history} ids; send the newest")
    deadline = time.monotonic() + timeout_ms(request) / 1e3
    arm, vectors = await service.recaller.embed(name, body.user_id, body.history, deadline)
    prompts = arm.prompts(vectors)
    return codec.reply({"bundle": arm.bundle, "arm": name, "vectors": vectors.vectors.tolist(), "prompts": prompts})


@router.post(
    "/feedback",
    status_code=202,
    responses=with_problems(FeedbackResponse, 202),
    openapi_extra=body_of(FeedbackRequest),
    tags=["events"],
)
async def feedback(request: Request) -> Response:
    """202 only once the event is kept; the same event_id twice is one event."""
    service = service_of(request)
    body = codec.parse(FeedbackRequest, await codec.read_body(request, service.settings.max_body_bytes))
    event = FeedbackEvent(
        user=str(body.user_id),
        item=body.item_id,
        action=Action(body.action),
        watch_time_ms=body.watch_time_ms,
        duration_ms=body.duration_ms,
        request_id=body.request_id,
        event_id=body.event_id or "",
        ts_ms=body.ts_ms if body.ts_ms is not None else int(time.time() * 1e3),
    )
    is_new = await service.stores.feedback.keep(event)
    return codec.reply({"event_id": event.event_id, "duplicate": not is_new}, 202)


@router.get("/health", responses={503: {"description": "An engine does not answer"}}, tags=["operations"])
async def health(request: Request) -> Response:
    """Every engine computes one empty history; 503 when one does not."""
    arms = service_of(request).recaller.arms
    recaller = service_of(request).recaller
    deadline = time.monotonic() + HEALTH_SECONDS
    probes = [recaller.probe(arm, deadline) for arm in arms]
    # an exception here is an outcome, not a failure of the handler
    outcomes = await asyncio.gather(*probes, return_exceptions=True)
    state = {
        name: "ok" if outcome is None else type(outcome).__name__ for name, outcome in zip(arms, outcomes, strict=True)
    }
    healthy = all(one == "ok" for one in state.values())
    return codec.reply({"status": "ok" if healthy else "failing", "engines": state}, 200 if healthy else 503)


@router.get("/ready", tags=["operations"])
async def ready(request: Request) -> Response:
    """200 once all arms are proven (the port is closed before), with what runs below its best."""
    service = service_of(request)
    reasons = [f"redis_{client.role}_down" for client in service.stores.redis_clients if client.is_down]
    return codec.reply({"ready": True, "arms": list(service.recaller.arms), "degraded": reasons})


@router.get("/metrics", response_class=PlainTextResponse, tags=["operations"])
async def metrics(request: Request) -> Response:
    """Prometheus text, of all processes together."""
    service = service_of(request)
    if service.link is None:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
    return Response(add_up(await service.link.all_metrics()), media_type=CONTENT_TYPE_LATEST)


@router.get("/arms", tags=["operations"])
async def arms(request: Request) -> Response:
    """What is served under which name, by which plan."""
    served = {name: codec.describe_arm(slot.current) for name, slot in service_of(request).recaller.arms.items()}
    return codec.reply({"arms": served})


@router.get("/version", tags=["operations"])
async def version() -> Response:
    """Of this code and of what computes."""
    return codec.reply({"version": __version__, "python": platform.python_version(), "torch": torch.__version__})
