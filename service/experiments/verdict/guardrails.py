"""Guard rails: rates and latencies that a treatment must not worsen by more than it may. Watched at any time.

A breach is a lower bound of the always-valid interval above the tolerance: a treatment is then recommended for pause.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from service.errors import BadStatistics
from service.experiments.verdict.estimates import compare, estimate_arm
from service.experiments.verdict.statistics import Kind, MetricStatistics, Moments

MIN_USERS = 100  # an arm: below, the interval's normal approximation does not hold for rare failures


class RailState(StrEnum):
    WITHIN = "within tolerance"
    UNCLEAR = "unclear yet"
    BREACHED = "breached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """A metric of which more is worse, and by how much it may rise; relative: a fraction of the control's value."""

    metric: str
    tolerance: float
    relative: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise BadStatistics(f"the tolerance of {self.metric!r} must be a number from 0")


GUARDRAILS = (
    Guardrail(metric="latency_ms", tolerance=0.1, relative=True),
    Guardrail(metric="error_rate", tolerance=0.002),
    Guardrail(metric="fallback_rate", tolerance=0.01),
    Guardrail(metric="empty_rate", tolerance=0.002),
    Guardrail(metric="short_rate", tolerance=0.01),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailVerdict:
    """The rise of one metric in one treatment, in the tolerance's unit; None without a value to be relative to."""

    metric: str
    treatment: str
    control_value: float
    treatment_value: float
    rise: float | None
    always_valid: tuple[float, float] | None
    tolerance: float
    relative: bool
    state: RailState

    @property
    def pause(self) -> bool:
        return self.state is RailState.BREACHED


def judge_guardrail(
    rail: Guardrail, control: MetricStatistics, treatment: MetricStatistics, alpha: float
) -> GuardrailVerdict:
    absolute, relative = compare(control.moments, treatment.moments, control.kind)
    values = [float(estimate_arm(row.moments, row.kind).value) for row in (control, treatment)]
    effect = relative if rail.relative else absolute
    known = values[0] > 0 or not rail.relative
    # where no user of an arm differs from another, as in one that always fails, the interval is a point
    low, high = effect.always_valid(alpha) if known else (-math.inf, math.inf)
    if not rail.relative and float(effect.error) == 0 == float(effect.estimate):
        low, high = -unseen(control.moments, alpha), unseen(treatment.moments, alpha)
    elif not rail.relative and control.kind is Kind.RATIO:
        # a few failures are no more reassuring than none, though their interval is the narrow one of a normal sum
        high = max(float(high), unseen(treatment.moments, alpha))
    interval = (float(low), float(high))
    enough = min(control.moments.n, treatment.moments.n) >= MIN_USERS
    return GuardrailVerdict(
        metric=rail.metric,
        treatment=treatment.variation,
        control_value=values[0],
        treatment_value=values[1],
        rise=float(effect.estimate) if known else None,
        always_valid=interval if known else None,
        tolerance=rail.tolerance,
        relative=rail.relative,
        state=rail_state(interval, rail.tolerance) if enough else RailState.UNCLEAR,
    )


def unseen(moments: Moments, alpha: float) -> float:
    """The largest rate that a count without a single failure leaves possible (or, of failures alone, of successes).

    It holds at any time: so long a run without one ends only once. Requests of one user may share their fate: where
    there are fewer users than requests, users count.
    """
    clean = min(float(moments.n), float(moments.sum_d))
    return float(1 - (alpha / 2) ** (1 / clean))


def rail_state(interval: tuple[float, float], tolerance: float) -> RailState:
    if interval[0] > tolerance:
        return RailState.BREACHED
    return RailState.WITHIN if interval[1] <= tolerance else RailState.UNCLEAR
