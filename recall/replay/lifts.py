"""Lifts out of worlds: of twins, who live in one world with each arm, and of an A/B run's users.

A twin's two sums are a pair: the relative lift is a ratio of sums over the same users, and its error that of a ratio
metric (delta method), without the spread between users that an ordinary split has to bear.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from recall.replay.audiences.audience import Numbers
from service.experiments.verdict.estimates import Effect, estimate_arm
from service.experiments.verdict.statistics import Kind, Moments

ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinLift:
    """One metric of the same users with either arm; fractions of the control's mean where it is relative."""

    metric: str
    control: float  # mean a user
    treatment: float
    lift: float
    fixed: tuple[float, float]
    always_valid: tuple[float, float]
    correlation: float  # of a user's two sums


def twin_lift(metric: str, control: Numbers, treatment: Numbers) -> TwinLift | None:
    """None where nobody of the control did it."""
    if not control.sum() > 0:
        return None
    ratio = estimate_arm(Moments.of_users(treatment, d=control), Kind.RATIO)
    users = len(control)
    # the lift is a ratio less 1, and has its error
    effect = Effect(ratio.value - 1, np.sqrt(ratio.var_value), users - 1, users)
    (low, high), (low_ever, high_ever) = effect.interval(ALPHA), effect.always_valid(ALPHA)
    varies = control.std() > 0 and treatment.std() > 0
    return TwinLift(
        metric=metric,
        control=float(control.mean()),
        treatment=float(treatment.mean()),
        lift=float(effect.estimate),
        fixed=(float(low), float(high)),
        always_valid=(float(low_ever), float(high_ever)),
        correlation=float(np.corrcoef(control, treatment)[0, 1]) if varies else 1.0,
    )


def twin_lifts(control: pl.DataFrame, treatment: pl.DataFrame, metrics: list[str]) -> list[TwinLift]:
    """The lifts between two worlds. Raises ValueError where their users are not the same, in the same order."""
    if control["user"].to_list() != treatment["user"].to_list():
        raise ValueError("the two worlds have different users: twins are the same users in both")
    rows = [twin_lift(name, control[name].to_numpy(), treatment[name].to_numpy()) for name in metrics]
    return [lift for lift in rows if lift is not None]
