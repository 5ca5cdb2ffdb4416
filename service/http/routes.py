"""HTTP handlers: read, check, call the pipeline, answer. No logic of their own."""

import asyncio
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from model import __version__
from service.admission.gate import Ticket
from service.bootstrap import Service
from service.errors import RecallError, UnknownArm
from service.experiments.exposure import Exposure
from service.http import codec
from service.http.auth import check_admin, forced_bucket
from service.http.observe import request_id_of
from service.http.openapi import body_of, health_answers, ready_answers, recall_answers, reload_answers, with_problems
from service.http.schemas import (
    ArmsResponse,
    BatchRequest,
    BatchResponse,
    EmbedRequest,
    EmbedResponse,
    FeedbackRequest,
    FeedbackResponse,
    RecallRequest,
    RecallResponse,
    ReloadBody,
    VersionResponse,
)
from service.http.tickets import record_wait, ticket_of
from service.pipeline import RecallQuery, RecallResult

HEALTH_SECONDS = 1.0
MEMBERS_A_TURN = 8  # of a batch; then the event loop turns to others
# operation ids are the names of the handlers: recall, recall_batch ..
router = APIRouter(generate_unique_id_function=lambda route: route.name)


def service_of(request: Request) -> Service:
    service: Service = request.app.service
    return service


def check_arm(service: Service, name: str) -> None:
    """Raises UnknownArm for a body that names no arm of this service."""
    if name not in service.pipeline.arms:
        raise UnknownArm(f"no arm is called {name!r}")


def settle(service: Service, ticket: Ticket, history: Sequence[object] | None) -> None:
    """Corrects what a single request weighs: the items that are encoded. How long a kept history is, is a guess."""
    window = max(slot.current.window for slot in service.pipeline.arms.values())
    ticket.settle(window // 2 if history is None else min(len(history), window))


async def answer_query(service: Service, query: RecallQuery, ticket: Ticket) -> RecallResult:
    """The answer of the pipeline, made known to all that listen: the gate, metrics, exposures, the shadow comparison.

    The one place where the outcome of a recall request is known: an answer, or what the pipeline raises.
    """
    try:
        result = await service.pipeline.recall(query)
    except RecallError:
        record_wait(ticket)
        raise
    record_wait(ticket, result.timings_ms)
    service.metrics.answered(result)
    if exposure := Exposure.of(query.unit, result, int(time.time() * 1e3)):
        service.stores.exposures.record(exposure)
    service.shadow.sample(query, result)
    return result


@router.post("/recall", responses=recall_answers(), openapi_extra=body_of(RecallRequest, True), tags=["recall"])
async def recall(request: Request) -> Response:
    """The user's arm answers with its best `top_n` unseen items."""
    service, ticket = service_of(request), ticket_of(request)
    body = await codec.read(RecallRequest, request, service.settings.max_body_bytes)
    forced = forced_bucket(request, service.settings.qa_key)
    codec.check_bounds(body, service.settings)
    settle(service, ticket, body.history)
    deadline = ticket.since + codec.timeout_s_of(request, service.settings)
    query = codec.to_query(body, request_id_of(request), deadline, forced=forced)
    result = await answer_query(service, query, ticket)
    return codec.reply(codec.to_columns(result, body.explain), headers=codec.experiment_headers(result))


@router.post(
    "/recall/batch", responses=with_problems(BatchResponse), openapi_extra=body_of(BatchRequest), tags=["recall"]
)
async def recall_batch(request: Request) -> Response:
    """Many users in one call: order kept, a bad member answered with its own problem. JSON or MessagePack."""
    service, ticket = service_of(request), ticket_of(request)
    timeout_s = codec.timeout_s_of(request, service.settings)  # a bad header is the whole batch's fault
    body = await codec.read_packable(BatchRequest, request, service.settings.max_batch_body_bytes)
    codec.check_batch_bounds(body, service.settings)
    if body.arm is not None:
        check_arm(service, body.arm)
    write = codec.member_writer(request)
    deadline = ticket.since + timeout_s

    async def answer(number: int, member: dict[str, Any]) -> bytes:
        request_id = f"{request_id_of(request)}-{number}"
        return write(await _answer_member(service, member, request_id, body.arm, ticket, deadline))

    tasks: list[asyncio.Task[bytes]] = []
    async with asyncio.TaskGroup() as group:
        for number, member in enumerate(body.requests):
            tasks.append(group.create_task(answer(number, member)))
            if number % MEMBERS_A_TURN == 0:
                await asyncio.sleep(0)
    return codec.reply_members([task.result() for task in tasks], request)


async def _answer_member(
    service: Service, member: dict[str, Any], request_id: str, pinned: str | None, ticket: Ticket, deadline: float
) -> dict[str, Any]:
    try:
        body = codec.parse_object(RecallRequest, member)
        codec.check_bounds(body, service.settings)
        query = codec.to_query(body, request_id, deadline, pinned=pinned)
        result = await answer_query(service, replace(query, is_bulk=True), ticket)
    except RecallError as error:
        return codec.to_problem(error, request_id)
    return codec.to_columns(result, body.explain)


@router.post(
    "/recall/{arm}", responses=with_problems(RecallResponse), openapi_extra=body_of(RecallRequest), tags=["recall"]
)
async def recall_pinned(arm: str, request: Request) -> Response:
    """One named arm answers; never counted as an exposure."""
    service, ticket = service_of(request), ticket_of(request)
    body = await codec.read(RecallRequest, request, service.settings.max_body_bytes)
    codec.check_bounds(body, service.settings)
    settle(service, ticket, body.history)
    deadline = ticket.since + codec.timeout_s_of(request, service.settings)
    result = await answer_query(service, codec.to_query(body, request_id_of(request), deadline, pinned=arm), ticket)
    return codec.reply(codec.to_columns(result, body.explain))


@router.post("/embed", responses=with_problems(EmbedResponse), openapi_extra=body_of(EmbedRequest), tags=["recall"])
async def embed(request: Request) -> Response:
    """Query vectors and generated items alone."""
    service, ticket = service_of(request), ticket_of(request)
    body = await codec.read(EmbedRequest, request, service.settings.max_body_bytes)
    name = body.arm or next(iter(service.pipeline.arms))
    check_arm(service, name)
    codec.check_num_ids("history", body.history, service.settings)
    settle(service, ticket, body.history)
    deadline = ticket.since + codec.timeout_s_of(request, service.settings)
    arm, vectors = await service.pipeline.embed(name, body.user_id, body.history, deadline)
    return codec.reply(codec.to_vectors(arm, vectors))


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


@router.get("/ready", responses=ready_answers(), tags=["operations"])
async def ready(request: Request) -> Response:
    """200 once all arms are proven (the port is closed before) and while they compute; what runs below its best."""
    service = service_of(request)
    failing = service.pipeline.problems()
    clients = service.stores.redis_clients
    reasons = [f"redis_{client.role}_down" for client in clients if client.is_down]
    reasons += [f"redis_{client.role}_refuses_{client.refusal}" for client in clients if client.refusal]
    refused = {state.arm: state.refusal for state in service.releases.states() if state.refusal}
    state = {"arms": list(service.pipeline.arms), "degraded": reasons, "refused": refused}
    return codec.reply({"ready": not failing, "failing": failing, **state}, 503 if failing else 200)


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
