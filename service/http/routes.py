"""HTTP handlers: read, check, call the pipeline, answer. No logic of their own."""

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from model import __version__
from service.bootstrap import Service
from service.errors import RecallError, UnknownArm
from service.experiments.exposure import Exposure
from service.http import codec
from service.http.auth import check_admin, forced_bucket
from service.http.observe import request_id_of
from service.http.openapi import body_of, health_answers, recall_answers, reload_answers, with_problems
from service.http.schemas import (
    ArmsResponse,
    BatchRequest,
    BatchResponse,
    EmbedRequest,
    EmbedResponse,
    FeedbackRequest,
    FeedbackResponse,
    ReadyResponse,
    RecallRequest,
    RecallResponse,
    ReloadBody,
    VersionResponse,
)
from service.pipeline import RecallQuery, RecallResult

HEALTH_SECONDS = 1.0
# operation ids are the names of the handlers: recall, recall_batch ..
router = APIRouter(generate_unique_id_function=lambda route: route.name)


def service_of(request: Request) -> Service:
    service: Service = request.app.service
    return service


def check_arm(service: Service, name: str) -> None:
    """Raises UnknownArm for a body that names no arm of this service."""
    if name not in service.pipeline.arms:
        raise UnknownArm(f"no arm is called {name!r}")


async def answer_query(service: Service, query: RecallQuery) -> RecallResult:
    """The answer of the pipeline, made known to all that listen: metrics, exposures, the shadow comparison."""
    result = await service.pipeline.recall(query)
    make_known(service, query, result)
    return result


def make_known(service: Service, query: RecallQuery, result: RecallResult) -> None:
    service.metrics.answered(result)
    if exposure := Exposure.of(query.unit, result, int(time.time() * 1e3)):
        service.stores.exposures.record(exposure)
    service.shadow.sample(query, result)


async def answer_queries(service: Service, queries: Sequence[RecallQuery]) -> list[RecallResult | RecallError]:
    """The outcomes of many queries, made known in the same way."""
    outcomes = await service.pipeline.recall_many(queries)
    for query, outcome in zip(queries, outcomes, strict=True):
        if isinstance(outcome, RecallResult):
            make_known(service, query, outcome)
    return outcomes


@router.post("/recall", responses=recall_answers(), openapi_extra=body_of(RecallRequest, True), tags=["recall"])
async def recall(request: Request) -> Response:
    """The user's arm answers with its best `top_n` unseen items."""
    service = service_of(request)
    body = await codec.read(RecallRequest, request, service.settings.max_body_bytes)
    forced = forced_bucket(request, service.settings.qa_key)
    codec.check_bounds(body, service.settings)
    deadline = time.monotonic() + codec.timeout_s_of(request, service.settings)
    result = await answer_query(service, codec.to_query(body, request_id_of(request), deadline, forced=forced))
    return codec.reply(
        codec.to_columns(result, body.explain, service.settings), headers=codec.experiment_headers(result)
    )


@router.post(
    "/recall/batch", responses=with_problems(BatchResponse), openapi_extra=body_of(BatchRequest), tags=["recall"]
)
async def recall_batch(request: Request) -> Response:
    """Many users in one call: order kept, a bad member answered with its own problem. JSON or MessagePack."""
    service = service_of(request)
    timeout_s = codec.timeout_s_of(request, service.settings)  # a bad header is the whole batch's fault
    body = await codec.read_packable(BatchRequest, request, service.settings.max_batch_body_bytes)
    codec.check_batch_bounds(body, service.settings)
    if body.arm is not None:
        check_arm(service, body.arm)
    own_id, deadline = request_id_of(request), time.monotonic() + timeout_s
    members = [(member, f"{own_id}-{number}") for number, member in enumerate(body.requests)]
    read = [_read_member(service, member, request_id, body.arm, deadline) for member, request_id in members]
    answers = iter(await answer_queries(service, [query for query in read if isinstance(query, RecallQuery)]))
    responses = []
    for (_, request_id), query in zip(members, read, strict=True):
        outcome = query if isinstance(query, RecallError) else next(answers)
        if isinstance(outcome, RecallError):
            responses.append(codec.to_problem(outcome, request_id))
        else:
            explain = isinstance(query, RecallQuery) and query.explain
            responses.append(codec.to_columns(outcome, explain, service.settings))
    return codec.reply_as_accepted({"responses": responses}, request)


def _read_member(
    service: Service, member: dict[str, Any], request_id: str, pinned: str | None, deadline: float
) -> RecallQuery | RecallError:
    """The query of a member, or the reason why it is none."""
    try:
        body = codec.parse_object(RecallRequest, member)
        codec.check_bounds(body, service.settings)
    except RecallError as error:
        return error
    return codec.to_query(body, request_id, deadline, pinned=pinned)


@router.post(
    "/recall/{arm}", responses=with_problems(RecallResponse), openapi_extra=body_of(RecallRequest), tags=["recall"]
)
async def recall_pinned(arm: str, request: Request) -> Response:
    """One named arm answers; never counted as an exposure."""
    service = service_of(request)
    body = await codec.read(RecallRequest, request, service.settings.max_body_bytes)
    codec.check_bounds(body, service.settings)
    deadline = time.monotonic() + codec.timeout_s_of(request, service.settings)
    result = await answer_query(service, codec.to_query(body, request_id_of(request), deadline, pinned=arm))
    return codec.reply(codec.to_columns(result, body.explain, service.settings))


@router.post("/embed", responses=with_problems(EmbedResponse), openapi_extra=body_of(EmbedRequest), tags=["recall"])
async def embed(request: Request) -> Response:
    """Query vectors and generated items alone."""
    service = service_of(request)
    body = await codec.read(EmbedRequest, request, service.settings.max_body_bytes)
    name = body.arm or next(iter(service.pipeline.arms))
    check_arm(service, name)
    codec.check_num_ids("history", body.history, service.settings)
    deadline = time.monotonic() + codec.timeout_s_of(request, service.settings)
    arm, vectors = await service.pipeline.embed(name, body.user_id, body.history, deadline)
    return codec.reply(codec.to_vectors(arm, vectors, service.settings))


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
    body = await codec.read(FeedbackRequest, request, service.settings.max_body_bytes)
    event = codec.to_event(body, int(time.time() * 1e3))
    is_new = await service.stores.feedback.keep(event)
    return codec.reply({"event_id": event.event_id, "duplicate": not is_new}, 202)


@router.get("/health", responses=health_answers(), tags=["operations"])
async def health(request: Request) -> Response:
    """Every engine computes one empty history; 503 when one does not."""
    states = await service_of(request).pipeline.engine_states(time.monotonic() + HEALTH_SECONDS)
    is_healthy = set(states.values()) == {"ok"}
    return codec.reply({"status": "ok" if is_healthy else "failing", "engines": states}, 200 if is_healthy else 503)


@router.get("/ready", response_model=ReadyResponse, tags=["operations"])
async def ready(request: Request) -> Response:
    """200 once all arms are proven (the port is closed before), with what runs below its best."""
    service = service_of(request)
    clients = service.stores.redis_clients
    reasons = [f"redis_{client.role}_down" for client in clients if client.is_down]
    reasons += [f"redis_{client.role}_refuses_{client.refusal}" for client in clients if client.refusal]
    refused = {state.arm: state.refusal for state in service.releases.states() if state.refusal}
    return codec.reply({"ready": True, "arms": list(service.pipeline.arms), "degraded": reasons, "refused": refused})


@router.get("/metrics", response_class=PlainTextResponse, tags=["operations"])
async def metrics(request: Request) -> Response:
    """Prometheus text, of all processes together."""
    return Response(await service_of(request).scrape(), media_type=CONTENT_TYPE_LATEST)


@router.get("/arms", response_model=ArmsResponse, tags=["operations"])
async def arms(request: Request) -> Response:
    """The arms by name: the bundle that each serves, and its plan."""
    service = service_of(request)
    states = {state.arm: state for state in service.releases.states()}
    served = {name: codec.describe_arm(slot.current, states[name]) for name, slot in service.pipeline.arms.items()}
    return codec.reply({"arms": served})


@router.get("/version", response_model=VersionResponse, tags=["operations"])
async def version(request: Request) -> Response:
    """The versions of this code, of Python and of PyTorch, and the bundles that are served."""
    bundles = {name: slot.current.bundle for name, slot in service_of(request).pipeline.arms.items()}
    versions = {"version": __version__, "python": platform.python_version(), "torch": metadata.version("torch")}
    return codec.reply(versions | {"bundles": bundles})


@router.post("/admin/reload", responses=reload_answers(), openapi_extra=body_of(ReloadBody), tags=["operations"])
async def reload(request: Request) -> Response:
    """An arm serves another bundle, proven before and without a lost request; a refused one changes nothing."""
    service = service_of(request)
    check_admin(request, service.settings.admin_key)
    body = await codec.read(ReloadBody, request, service.settings.max_body_bytes)
    return codec.reply(asdict(await service.releases.reload(codec.to_reload(body))))
