"""The step of an interleaving: one answer out of those of two arms (decision 62).

service/experiments/team_draft.py says which item comes next; here are the requests that it can answer and the record.
"""

from collections.abc import Sequence

from service.clock import Clock
from service.errors import BadRequest
from service.experiments.assignment import Assignment, Reason
from service.experiments.team_draft import draft, seed_of
from service.fallback import FALLBACK
from service.queries import InterleavedResult, Provenance, RecallQuery, RecallResult


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
    return query.is_plain and not assignment.teams


def interleave(
    query: RecallQuery, assignment: Assignment, parts: Sequence[RecallResult], clock: Clock
) -> InterleavedResult:
    """The list mixed out of those of the teams. The coin is drawn from user and request: the log says it all again."""
    first, second = ([str(item) for item in part.item_ids.tolist()] for part in parts)
    seed = seed_of(assignment.experiment or "", assignment.phase, query.unit or "", query.request_id)
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
