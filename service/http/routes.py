"""HTTP handlers: read, check, call the pipeline, answer. No logic of their own."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from service.admission.gate import Ticket
from service.bootstrap import Service
from service.errors import Forbidden, RecallError, Unauthorized
from service.experiments.assignment import Assignment
from service.http import bodies, codec
from service.http.auth import forced_bucket
from service.http.codec import Deadline
from service.http.observe import note_steps, request_id_of
from service.http.openapi import body_of, recall_answers, with_problems
from service.http.schemas import (
    BatchRequest,
    BatchResponse,
    EmbedRequest,
    EmbedResponse,
    FeedbackBatch,
    FeedbackBatchResponse,
    FeedbackRequest,
    FeedbackResponse,
    RecallRequest,
    RecallResponse,
)
from service.http.tickets import record_wait, ticket_of
from service.queries import AnyResult, RecallQuery, RecallResult
from service.steps.assigning import slot_of

MEMBERS_A_TURN = 8  # of a batch, read or written; then the event loop turns to others
UNANSWERED = RecallError("internal error")  # the outcome of a request that a bug, or the stop of the service, ended
# operation ids are the names of the handlers: recall, recall_batch ..
router = APIRouter(generate_unique_id_function=lambda route: route.name)


def service_of(request: Request) -> Service:
    service: Service = request.app.service
    return service


def settle(service: Service, ticket: Ticket, history: Sequence[object] | None) -> None:
    """Corrects what a single request weighs: the items that are encoded. How long a kept history is, is a guess."""
    window = max(slot.current.window for slot in service.pipeline.arms.values())
    ticket.settle(window // 2 if history is None else min(len(history), window))


async def answer_query(service: Service, query: RecallQuery, ticket: Ticket) -> AnyResult:
    """The answer of the pipeline, made known to all that listen: the gate, metrics, exposures, the shadow comparison.

    An exposure is recorded whatever becomes of the request: who is refused under one arm alone would be missing there.
    """
    assignment = await service.pipeline.assign(query)
    ticket.multiply(len(assignment.arms))
    outcome: AnyResult | RecallError = UNANSWERED
    try:
        outcome = await service.pipeline.recall(query, assignment)
    except RecallError as error:
        outcome = error
        raise
    finally:
        tell_gate(ticket, outcome)
        record_exposure(service, query, assignment, outcome)
        if isinstance(outcome, RecallError) and outcome is not UNANSWERED:
            for arm in assignment.arms:
                service.canaries.failed(query, arm, outcome)
    make_known(service, query, outcome)
    return outcome


def tell_gate(ticket: Ticket, outcome: AnyResult | RecallError) -> None:
    """Tells how long a request waited; one that was given up, since its caller has gone, tells nothing."""
    if not isinstance(outcome, RecallError):
        record_wait(ticket, outcome.timings_ms)
    elif outcome is not UNANSWERED:
        record_wait(ticket)


def record_exposure(
    service: Service, query: RecallQuery, assignment: Assignment, outcome: AnyResult | RecallError
) -> None:
    if isinstance(outcome, RecallError):
        service.stores.exposures.record(query, assignment, str(outcome.status))
    else:
        service.stores.exposures.record(query, assignment, outcome.served, outcome)


def make_known(service: Service, query: RecallQuery, result: AnyResult) -> None:
    for part in result.parts:
        service.metrics.answered(part, is_canary=service.canaries.answered(query, part))
    # an answer of two arms is compared already; lists without what was shown have no counterpart in an arm that has
    # shown nothing
    if isinstance(result, RecallResult) and not query.not_shown:
        service.shadow.sample(query, result)


async def answer_queries(
    service: Service, queries: Sequence[RecallQuery], ticket: Ticket
) -> Sequence[AnyResult | RecallError]:
    """The outcomes of many queries, made known in the same way."""
    assignments = await service.pipeline.assign_many(queries)
    ticket.multiply(sum(len(assignment.arms) for assignment in assignments) / len(queries))
    outcomes: Sequence[AnyResult | RecallError] = [UNANSWERED] * len(queries)
    try:
        outcomes = await service.pipeline.recall_many(queries, assignments)
    finally:
        tell_gate(ticket, outcomes[0])
        for query, assignment, outcome in zip(queries, assignments, outcomes, strict=True):
            record_exposure(service, query, assignment, outcome)
    for query, outcome in zip(queries, outcomes, strict=True):
        if not isinstance(outcome, RecallError):
            make_known(service, query, outcome)
    return outcomes


@router.post("/recall", responses=recall_answers(), openapi_extra=body_of(RecallRequest, True), tags=["recall"])
async def recall(request: Request) -> Response:
    """The user's arm answers with its best `top_n` unseen items."""
    service, ticket = service_of(request), ticket_of(request)
    body = bodies.with_session(await codec.read(RecallRequest, request, service.settings.max_body_bytes), request)
    forced = forced_bucket(request, service.settings.qa_key)
    codec.check_bounds(body, service.settings)
    settle(service, ticket, body.history)
    deadline = codec.deadline_of(request, ticket.since, service.settings)
    query = codec.to_query(body, request_id_of(request), deadline, forced=forced)
    result = await answer_query(service, query, ticket)
    note_steps(request, result.timings_ms)
    return codec.reply(
        codec.to_columns(result, body.explain, service.settings), headers=codec.experiment_headers(result)
    )


@router.post(
    "/recall/batch",
    responses=with_problems(BatchResponse, 200, Unauthorized, Forbidden),
    openapi_extra=body_of(BatchRequest, True),
    tags=["recall"],
)
async def recall_batch(request: Request) -> Response:
    """Many users in one call: order kept, a bad member answered with its own problem. JSON or MessagePack."""
    service, ticket = service_of(request), ticket_of(request)
    bodies.refuse_session_header(request)
    deadline = codec.deadline_of(request, ticket.since, service.settings)  # a bad header is the whole batch's fault
    body = await codec.read_packable(BatchRequest, request, service.settings.max_batch_body_bytes)
    codec.check_batch_size("requests", body.requests, service.settings)
    if body.arm is not None:
        slot_of(service.pipeline.arms, body.arm)
    forced = forced_bucket(request, service.settings.qa_key, body.arm)
    own_id = request_id_of(request)
    members = [(member, f"{own_id}-{number}") for number, member in enumerate(body.requests)]
    read: list[RecallQuery | RecallError] = []
    for number, member in enumerate(members):
        read.append(_read_member(service, *member, deadline, forced, body.arm))
        await give_way(number)
    queries = [query for query in read if isinstance(query, RecallQuery)]
    answers = iter(await answer_queries(service, queries, ticket) if queries else ())
    write, responses = bodies.member_writer(request), list[bytes]()
    for number, ((_, request_id), query) in enumerate(zip(members, read, strict=True)):
        outcome = query if isinstance(query, RecallError) else next(answers)
        if isinstance(outcome, RecallError):
            responses.append(write(codec.to_problem(outcome, request_id)))
        else:
            explain = isinstance(query, RecallQuery) and query.explain
            responses.append(write(codec.to_columns(outcome, explain, service.settings)))
        await give_way(number)
    return bodies.reply_members(responses, request)


async def give_way(number: int) -> None:
    """Lets the event loop turn to others after every MEMBERS_A_TURN members."""
    if number % MEMBERS_A_TURN == 0:
        await asyncio.sleep(0)


def _read_member(
    service: Service, member: dict[str, Any], request_id: str, by: Deadline, forced: str | None, pinned: str | None
) -> RecallQuery | RecallError:
    """The query of a member, or the reason why it is none."""
    try:
        body = codec.parse_object(RecallRequest, member)
        codec.check_bounds(body, service.settings)
        return replace(codec.to_query(body, request_id, by, forced, pinned), is_bulk=True)
    except RecallError as error:
        return error


@router.post(
    "/recall/{arm}", responses=with_problems(RecallResponse), openapi_extra=body_of(RecallRequest), tags=["recall"]
)
async def recall_pinned(arm: str, request: Request) -> Response:
    """One named arm answers; never counted as an exposure."""
    service, ticket = service_of(request), ticket_of(request)
    forced_bucket(request, service.settings.qa_key, pinned=arm)
    body = bodies.with_session(await codec.read(RecallRequest, request, service.settings.max_body_bytes), request)
    codec.check_bounds(body, service.settings)
    settle(service, ticket, body.history)
    deadline = codec.deadline_of(request, ticket.since, service.settings)
    query = codec.to_query(body, request_id_of(request), deadline, pinned=arm)
    result = await answer_query(service, query, ticket)
    note_steps(request, result.timings_ms)
    return codec.reply(codec.to_columns(result, body.explain, service.settings))


@router.post("/embed", responses=with_problems(EmbedResponse), openapi_extra=body_of(EmbedRequest), tags=["recall"])
async def embed(request: Request) -> Response:
    """Query vectors and generated items alone."""
    service, ticket = service_of(request), ticket_of(request)
    body = await codec.read(EmbedRequest, request, service.settings.max_body_bytes)
    name = body.arm or next(iter(service.pipeline.arms))
    slot_of(service.pipeline.arms, name)
    codec.check_num_ids("history", body.history, service.settings)
    settle(service, ticket, body.history)
    deadline = codec.deadline_of(request, ticket.since, service.settings)
    arm, vectors = await service.pipeline.embed(name, body.user_id, body.history, body.outcome, deadline.at)
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
    body = bodies.with_session(await codec.read(FeedbackRequest, request, service.settings.max_body_bytes), request)
    return codec.reply(await keep_event(service, body), 202)


async def keep_event(service: Service, body: FeedbackRequest) -> dict[str, Any]:
    """The acknowledgement of an event that is kept. Raises BadRequest for one that cannot have been."""
    now_ms = int(time.time() * 1e3)
    codec.check_plausible(body, now_ms, service.settings)
    event = codec.to_event(body, now_ms)
    is_taken = service.histories.takes(event)
    is_new = await service.stores.feedback.keep(event, is_taken)
    if is_new and is_taken:
        await service.items.watched(event)
    return {"event_id": event.event_id, "duplicate": not is_new}


@router.post(
    "/feedback/batch",
    status_code=202,
    responses=with_problems(FeedbackBatchResponse, 202),
    openapi_extra=body_of(FeedbackBatch),
    tags=["events"],
)
async def feedback_batch(request: Request) -> Response:
    """Many events in one call, kept in their order; one that is not kept is answered with its own problem."""
    service = service_of(request)
    bodies.refuse_session_header(request)
    body = await codec.read(FeedbackBatch, request, service.settings.max_batch_body_bytes)
    codec.check_batch_size("events", body.events, service.settings)
    answers = [_keep_member(service, member, request_id_of(request)) for member in body.events]
    return codec.reply({"responses": await asyncio.gather(*answers)}, 202)


async def _keep_member(service: Service, member: dict[str, Any], request_id: str) -> dict[str, Any]:
    try:
        return await keep_event(service, codec.parse_object(FeedbackRequest, member))
    except RecallError as error:
        return codec.to_problem(error, request_id)
