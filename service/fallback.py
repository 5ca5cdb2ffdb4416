"""The fallback: when it answers, and the reasons that are told where an answer is less than it could be."""

import time
from dataclasses import replace

from model.merging import Merged
from model.rules import NO_RULES
from service.engine.arms import Release
from service.engine.messages import EngineRequest, EngineResult
from service.errors import DeadlineExceeded, EngineFailed, RecallError
from service.lists.fill import EMPTY, complete

FALLBACK = "fallback"
NEAR_S, SHARE = 0.02, 0.2  # before its deadline a request is given the fallback: so long, or this share of its time


def is_filled(error: RecallError, answer_by: float) -> bool:
    """True where the fallback answers: the engine failed, or did not answer and there is still time to say less."""
    return isinstance(error, EngineFailed) or (isinstance(error, DeadlineExceeded) and time.monotonic() < answer_by)


def shortfalls(outcome: EngineResult | RecallError) -> list[str]:
    """The reasons why an engine's outcome is less than it could be."""
    if isinstance(outcome, EngineResult):
        return ["one_step"] if outcome.is_cheap else []
    return ["deadline"] if isinstance(outcome, DeadlineExceeded) else []


def turning_point(deadline: float) -> float:
    """The moment from which on there is time for the fallback alone."""
    left = deadline - time.monotonic()
    return deadline - min(NEAR_S, SHARE * max(left, 0.0)) if left < float("inf") else deadline


def reasons(request: EngineRequest, result: EngineResult | None) -> list[str]:
    """The reasons why an answer is less than it could be."""
    states = {"unknown_items": bool(request.unknown), "cold_start": request.is_cold, FALLBACK: result is None}
    return [name for name, holds in states.items() if holds]


def filled(arm: Release, request: EngineRequest, result: EngineResult | None, degraded: list[str]) -> Merged:
    """The list of the result, filled up with popular items where it is short."""
    merged = result.merged if result else EMPTY
    listed = complete(arm.items, merged, request)
    if len(listed.rows) > len(merged.rows):
        degraded.append("filled")
    # an outcome leaves nothing out
    if len(listed.rows) < request.limit and replace(request.rules, outcome=None) != NO_RULES:
        degraded.append("rules_leave_fewer")
    return listed
