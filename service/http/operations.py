"""Routes of operations: health, readiness, metrics, arms, versions, reload and the catalogue's changes.

The schemas of their answers lie here too.
"""

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field, JsonValue

from model import __version__
from service.access.ring import KeyRing
from service.bootstrap import Service
from service.catalogue.changes import PutItem
from service.engine.arms import Release
from service.engine.releases import ReleaseState
from service.errors import BadRequest, RecallError, UnknownItem
from service.experiments.assignment import DEFAULT_FILE
from service.http import codec
from service.http.auth import check_admin
from service.http.bodies import JSON
from service.http.observe import request_id_of
from service.http.openapi import (
    DELETE_PARAMETERS,
    ITEM_REFUSALS,
    REPORT_PARAMETERS,
    Responses,
    body_of,
    health_answers,
    item_answers,
    items_answers,
    reload_answers,
    report_answers,
)
from service.http.routes import give_way, service_of
from service.http.schemas import Body, ItemBatch, ItemBody, ReloadBody
from service.reports import ReportRequest
from service.settings import Settings

HEALTH_SECONDS = 1.0
HTML = "text/html; charset=utf-8"
router = APIRouter(generate_unique_id_function=lambda route: route.name)


class ExperimentsState(Body):
    """The experiments in force."""

    config: str = Field(description="Digest of their settings; exposures name it.")
    refused: str | None = Field(description="Why the file that is there now is not in force; the one before still is.")
    paused: list[str] = Field(description="Keys of the experiments that a guard rail has paused.")


class ReadyResponse(Body):
    """The arms that answer, and the parts that are down meanwhile."""

    ready: bool = Field(description="False, with status 503: an arm is answered by the fallback, or the service stops.")
    failing: dict[str, str] = Field(description="By arm: why nothing is computed for it now; empty = all well.")
    arms: list[str]
    degraded: list[str] = Field(
        description="For example redis_cache_down, redis_events_refuses_permission, stopping; empty = all well."
    )
    refused: dict[str, str] = Field(
        description="By arm: why the last bundle offered was refused; the one before it still serves."
    )
    experiments: ExperimentsState


READY_ANSWERS: Responses = {
    200: {"model": ReadyResponse, "description": "Every arm computes"},
    503: {"model": ReadyResponse, "description": "An arm is answered by the fallback, or the service is stopping"},
}


class ArmDescription(Body):
    """The bundle and the plan of an arm."""

    kind: str = Field(description="The system: recgpt, comirec ..")
    bundle: str = Field(description="Digest of the release that is served.")
    previous: str | None = Field(description="Digest of the release that a roll back puts in its place.")
    canary: dict[str, JsonValue] | None = Field(description="The release on trial, and the terms of its trial.")
    num_items: int
    window: int = Field(description="Newest history items that can change the answer.")
    positive: list[str] | None = Field(
        description="Events that its training chose, in the words of `recall prepare --positive`; empty = all of them, "
        "null = the bundle does not know."
    )
    outcomes: list[str] = Field(description="What its lists can be asked for; empty = nothing but the plain answer.")
    plan: dict[str, JsonValue] = Field(description="Prompts, quotas, diversity and outcomes, with their digest.")


class ArmsResponse(Body):
    """The arms by name."""

    arms: dict[str, ArmDescription]


class VersionResponse(Body):
    """The versions of what computes."""

    version: str
    python: str
    torch: str
    bundles: dict[str, str] = Field(description="By arm: digest of the release that is served.")


@router.get("/health", responses=health_answers(), tags=["operations"])
async def health(request: Request) -> Response:
    """Every engine computes one empty history; 503 when one does not."""
    states = await service_of(request).pipeline.engine_states(time.monotonic() + HEALTH_SECONDS)
    is_healthy = set(states.values()) == {"ok"}
    return codec.reply({"status": "ok" if is_healthy else "failing", "engines": states}, 200 if is_healthy else 503)


@router.get("/ready", responses=READY_ANSWERS, tags=["operations"])
async def ready(request: Request) -> Response:
    """200 once all arms are proven (the port is closed before) and while they compute; what runs below its best."""
    service = service_of(request)
    keys: KeyRing | None = request.app.keys
    failing, is_draining = service.pipeline.problems(), request.app.is_draining
    refused = {state.arm: state.refusal for state in service.releases.states() if state.refusal}
    live = service.experiments
    state = {
        "ready": not failing and not is_draining,
        "failing": failing,
        "arms": list(service.pipeline.arms),
        "degraded": [
            *service.stores.warnings(),
            *(keys.warnings() if keys else ()),
            *(["stopping"] if is_draining else ()),
        ],
        "refused": refused,
        "experiments": {"config": live.config, "refused": live.refusal, "paused": live.paused},
    }
    return codec.reply(state, 200 if state["ready"] else 503)


@router.get("/metrics", response_class=PlainTextResponse, tags=["operations"])
async def metrics(request: Request) -> Response:
    """Prometheus text, of all processes together."""
    return Response(await service_of(request).scrape(), media_type=CONTENT_TYPE_LATEST)


@router.get("/arms", response_model=ArmsResponse, tags=["operations"])
async def arms(request: Request) -> Response:
    """The arms by name: the bundle that each serves, and its plan."""
    return codec.reply({"arms": describe_arms(service_of(request))})


def describe_arms(service: Service) -> dict[str, dict[str, Any]]:
    states = {state.arm: state for state in service.releases.states()}
    return {name: describe_arm(slot.current, states[name]) for name, slot in service.pipeline.arms.items()}


def describe_arm(arm: Release, state: ReleaseState) -> dict[str, Any]:
    """An entry of GET /arms."""
    plan = {**asdict(arm.plan), "digest": arm.plan_digest}
    return {
        "kind": arm.kind,
        "bundle": arm.bundle,
        "previous": state.previous,
        "canary": {"bundle": state.canary.bundle, **asdict(state.canary.terms)} if state.canary else None,
        "num_items": len(arm.catalogue.items),
        "window": arm.window,
        "positive": arm.positive.words if arm.positive else None,
        "outcomes": arm.outcomes,
        "plan": plan,
    }


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


@router.post("/items", responses=item_answers(*ITEM_REFUSALS), openapi_extra=body_of(ItemBody), tags=["items"])
async def put_item(request: Request) -> Response:
    """An item is listed from now on, or has other attributes; the answer's number makes sure that a request sees it."""
    service = service_of(request)
    check_admin(request, service.settings.admin_key)
    body = await codec.read(ItemBody, request, service.settings.max_body_bytes)
    [outcome] = await service.items.put([codec.to_put(body)])
    if isinstance(outcome, RecallError):
        raise outcome
    return codec.reply({"catalogue": outcome})


@router.post("/items/batch", responses=items_answers(), openapi_extra=body_of(ItemBatch), tags=["items"])
async def put_items(request: Request) -> Response:
    """Many items in one call, kept in their order; one that is refused is answered with its own problem."""
    service = service_of(request)
    check_admin(request, service.settings.admin_key)
    body = await codec.read(ItemBatch, request, service.settings.max_batch_body_bytes)
    codec.check_batch_size("items", body.items, service.settings)
    wanted, refused = list[PutItem](), dict[int, RecallError]()
    for place, member in enumerate(body.items):
        await give_way(place)
        try:
            wanted.append(codec.to_put(codec.parse_object(ItemBody, member)))
        except RecallError as error:
            refused[place] = error
    outcomes = iter(await service.items.put(wanted))
    answers = [refused[place] if place in refused else next(outcomes) for place in range(len(body.items))]
    return codec.reply({"responses": [_change(own, request_id_of(request)) for own in answers]})


def _change(outcome: int | RecallError, request_id: str) -> dict[str, Any]:
    """A member of the answer to a batch."""
    return codec.to_problem(outcome, request_id) if isinstance(outcome, RecallError) else {"catalogue": outcome}


@router.delete(
    "/items/{item}",
    responses=item_answers(UnknownItem),
    openapi_extra={"parameters": DELETE_PARAMETERS},
    tags=["items"],
)
async def delete_item(item: str, request: Request) -> Response:
    """An item is gone from every list until it is put again."""
    service = service_of(request)
    check_admin(request, service.settings.admin_key)
    return codec.reply({"catalogue": await service.items.delete(service.items.read_id(item))})


@router.get(
    "/experiments/{key}/report",
    responses=report_answers(),
    openapi_extra={"parameters": REPORT_PARAMETERS},
    tags=["operations"],
)
async def experiment_report(key: str, request: Request) -> Response:
    """An experiment's report as a page, or as JSON with `format=json`, where the event log lies beside the service."""
    service = service_of(request)
    check_admin(request, service.settings.admin_key)
    wish = report_wish(key, request.query_params, service)
    return Response(await service.reports.make(wish), media_type=JSON if wish.as_json else HTML)


def file_of(settings: Settings) -> Path:
    """The file that says the shares of the experiments in force."""
    return settings.kept_experiments if settings.experiments_url else settings.experiments or DEFAULT_FILE


def report_wish(key: str, given: Mapping[str, str], service: Service) -> ReportRequest:
    """Raises BadRequest for a parameter that is none of a report's."""
    form = given.get("format", "html")
    if unknown := set(given) - {"format", "primary"}:
        raise BadRequest(f"{min(unknown)[:40]}: a report has the parameters format and primary")
    if form not in {"html", "json"}:
        raise BadRequest("format: html or json")
    return ReportRequest(
        folder=str(service.settings.state_dir / "events"),
        key=key,
        experiments=str(file_of(service.settings)),
        primary=given.get("primary", "plays"),
        as_json=form == "json",
        settings=describe_arms(service),
    )
