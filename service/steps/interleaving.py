"""The step of an interleaving: one answer out of those of two arms (decision 62).

service/experiments/team_draft.py says which item comes next; here are the requests that it can answer and the record.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from model.catalogue import ExternalId
from service.clock import Clock
from service.errors import BadRequest
from service.experiments.assignment import Assignment, Reason
from service.experiments.team_draft import draft, seed_of
from service.fallback import FALLBACK, turning_point
from service.queries import AnyResult, InterleavedResult, Provenance, RecallQuery, RecallResult

# steps of the pipeline: the history of a query, with its shortfalls put into the list, and the answer of one arm
ReadHistory = Callable[[RecallQuery, float, list[str]], Awaitable[Sequence[ExternalId]]]
RecallOne = Callable[[RecallQuery, Assignment, Sequence[str]], Awaitable[RecallResult]]


def fitting(assignment: Assignment, query: RecallQuery) -> Assignment:
    """The assignment, or the control's arm alone where the query asks for what a mixed list cannot keep.

    It depends on the request and not on any arm, so that leaving it out biases nothing. Raises BadRequest where a
    tester forces it all the same.
    """
    if not assignment.teams or query.can_interleave:
        return assignment
    if assignment.reason is Reason.FORCED:
        raise BadRequest("X-AB-Bucket: caps and diversity hold for one arm's list, not for one out of two lists")
    return assignment.alone()


def is_alike(query: RecallQuery, assignment: Assignment) -> bool:
    """True where a block of many users can carry the query."""
    return query.is_plain and not assignment.teams and assignment.settings is None


async def recall_both(
    query: RecallQuery, assignment: Assignment, read: ReadHistory, recall: RecallOne
) -> InterleavedResult:
    """One list out of those of both arms, which are made at the same time from one history.

    Raises what either raises: an answer needs both lists.
    """
    clock, degraded = Clock(), list[str]()
    history = await read(query, turning_point(query.deadline), degraded)
    clock.lap("history")
    query = replace(query, history=history)
    making = [recall(query, assignment.of(team), degraded) for team in assignment.teams]
    # both are waited for, so that no work is left behind by an error of the other
    made = await asyncio.gather(*making, return_exceptions=True)
    for outcome in made:
        if isinstance(outcome, BaseException):
            raise outcome
    return interleave(query, assignment, [part for part in made if isinstance(part, RecallResult)], clock)


def interleave(
    query: RecallQuery, assignment: Assignment, parts: Sequence[RecallResult], clock: Clock
) -> InterleavedResult:
    """The list mixed out of those of the teams. The coin is drawn from user and request: the log says it all again."""
    first, second = ([str(item) for item in part.item_ids.tolist()] for part in parts)
    seed = seed_of(assignment.experiment or "", assignment.phase, query.unit_by(assignment.by) or "", query.request_id)
    drafted = draft((first, second), query.top_n, seed)
    slower = max(parts, key=lambda part: part.timings_ms.get("total", 0.0))
    is_whole = all(part.served != FALLBACK for part in parts)
    return InterleavedResult(
        query.request_id,
        assignment,
        served=assignment.arm if is_whole else FALLBACK,
        parts=tuple(parts),
        draft=drafted,
        provenance=Provenance(
            tuple(team.variation for team in assignment.teams), drafted.teams, len({*first} & {*second})
        ),
        timings_ms={**slower.timings_ms, **clock.timings_ms({})},
    )


def join_explained(result: AnyResult, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns that explain an answer, from those of each part: what its own arm says of each item."""
    if isinstance(result, RecallResult):
        return parts[0]
    sources = [
        [f"{part.arm_name}:{source}" for source in columns["sources"]]
        for part, columns in zip(result.parts, parts, strict=True)
    ]
    reasons = {name: result.chosen([columns["reasons"][name] for columns in parts]) for name in parts[0]["reasons"]}
    prompts = [item for columns in parts for item in columns["prompts"]]
    joined = {"sources": result.chosen(sources), "prompts": prompts, "reasons": reasons}
    if not any("nearest" in columns for columns in parts):
        return joined
    # a prompt that is one item has none
    nearest: dict[str, list[Any]] = {"items": [], "weights": []}
    for columns in parts:
        for name, own in nearest.items():
            own.extend(columns["nearest"][name] if "nearest" in columns else [[]] * len(columns["prompts"]))
    return {**joined, "nearest": nearest}
