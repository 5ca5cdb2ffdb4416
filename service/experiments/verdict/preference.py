"""The verdict of an interleaving: whom of two teams do users prefer, by what they did with items of each.

A user's preference is the sign of the difference of both credits, weighed by the rank of its size among all users: who
differs most counts twice as much as the one in the middle, however much that is. Its mean over all exposed users lies
between -1 and 1 (the rank-biserial correlation, Kerby 2014), with the intervals of any mean; the fixed look has the
signed rank test (Wilcoxon 1945), and the exact sign test beside it. Which credits, and why: decision 62.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.errors import BadStatistics
from service.experiments.verdict.distributions import ranks_of, sign_test_p, signed_rank_p
from service.experiments.verdict.estimates import Effect
from service.experiments.verdict.judge import NOT_SHOWN, AnalysisPlan, Lift, holm, lift_of
from service.experiments.verdict.sample_ratio import RatioState, SampleRatio, judge_ratio

BEGUN, BETWEEN = "begun", ":"  # the columns of users: begun:TEAM and METRIC:TEAM
TUNED_USERS = 500  # N* here: an interleaving is decided by some hundred users (estimates.py has that of a split)
LOGS = {"watch_time_s": "watch_time_log"}  # metric -> the credits that decide, where they are there
Credits = tuple[NDArray[np.float64], NDArray[np.float64]]  # (U,) of the control, (U,) of the treatment


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceVerdict:
    """One metric. `preference` is the mean signed rank: above 0 where users prefer the treatment."""

    metric: str
    primary: bool
    users: int
    prefer_control: int
    prefer_treatment: int
    control_credit: float
    treatment_credit: float
    preference: Lift | None  # None: nobody prefers either
    p_sign: float | None
    p_signed_rank: float | None
    p_holm: float | None
    decision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """Metrics are empty while the draft's balance is red: of fair coins each team begins half of the lists."""

    balance: SampleRatio
    look: str
    alpha: float
    control: str
    treatment: str
    summary: str
    metrics: tuple[PreferenceVerdict, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tallied:
    """The credits of one metric, counted."""

    metric: str
    credits: tuple[float, float]
    wins: tuple[int, int]
    users: int
    lift: Lift | None
    p_sign: float | None
    p_signed_rank: float | None


def teams_of(frame: pl.DataFrame) -> tuple[str, ...]:
    """The teams of users' credits, in the order of the columns; none where the rows are of no interleaving."""
    return tuple(name.partition(BETWEEN)[2] for name in frame.columns if name.startswith(BEGUN + BETWEEN))


def judge_preferences(frame: pl.DataFrame, plan: AnalysisPlan) -> Preferences:
    """From one row a user; metrics that nobody has credits for are left out, but for the primary one.

    Raises BadStatistics where the plan's variations are not the teams, or its primary metric is not among the credits.
    """
    credits = read_credits(frame, plan)
    if plan.primary not in credits or plan.primary in LOGS.values():
        known = ", ".join(name for name in credits if name not in LOGS.values())
        raise BadStatistics(f"the primary metric {plan.primary!r} is not among the credits, which are of {known}")
    begun = credits.pop(BEGUN)
    judged = {name: judged_by(credits, name) for name in credits if name not in LOGS.values()}
    shares = dict.fromkeys((plan.control, *plan.treatments), 0.5)
    counts = dict(zip(shares, (int(own.sum()) for own in begun), strict=True))
    if not any(counts.values()):
        raise BadStatistics("no list has items of both teams: there is nothing to prefer")
    balance = judge_ratio(counts, shares, plan.final)
    metrics: list[PreferenceVerdict] = []
    if balance.state is not RatioState.RED:
        ordered = sorted(judged, key=lambda name: name != plan.primary)
        metrics = decide_all([tally(name, credits[name], judged[name], plan) for name in ordered], plan)
    return Preferences(
        balance=balance,
        look="final" if plan.final else "any time",
        alpha=plan.alpha,
        control=plan.control,
        treatment=plan.treatments[0],
        summary=f"{metrics[0].metric}: {metrics[0].decision}" if metrics else NOT_SHOWN,
        metrics=tuple(metrics),
    )


def read_credits(frame: pl.DataFrame, plan: AnalysisPlan) -> dict[str, Credits]:
    """The columns METRIC:TEAM by metric, of the control and of the treatment. Raises BadStatistics."""
    teams = teams_of(frame)
    if len(teams) != 2 or set(teams) != set(plan.weights):
        raise BadStatistics(f"the teams are {', '.join(teams) or 'none'}, the plan's {', '.join(plan.weights)}")
    if frame["user_id"].is_duplicated().any():
        raise BadStatistics("a user has more than one row: sum up each user first")
    names = dict.fromkeys(name.partition(BETWEEN)[0] for name in frame.columns if BETWEEN in name)
    columns = {name: (_column(frame, name, plan.control), _column(frame, name, plan.treatments[0])) for name in names}
    return {
        name: pair for name, pair in columns.items() if name in (plan.primary, BEGUN) or pair[0].any() or pair[1].any()
    }


def _column(frame: pl.DataFrame, metric: str, team: str) -> NDArray[np.float64]:
    name = f"{metric}{BETWEEN}{team}"
    if name not in frame.columns:
        raise BadStatistics(f"the credits lack the column {name!r}")
    return frame[name].cast(pl.Float64).to_numpy()


def judged_by(credits: Mapping[str, Credits], metric: str) -> Credits:
    """The credits that decide a metric: of seconds their logarithms, where the rows have them."""
    return credits.get(LOGS.get(metric, metric), credits[metric])


def tally(metric: str, pair: Credits, judged: Credits, plan: AnalysisPlan) -> Tallied:
    """Counts users and tests. Raises BadStatistics for fewer than 2 users, or a credit that is no number."""
    control, treatment = pair
    difference = judged[1] - judged[0]
    if difference.size < 2 or not np.isfinite(difference).all():
        raise BadStatistics(f"{metric} needs the credits of 2 users at least, all of them finite numbers")
    wins = (int((difference < 0).sum()), int((difference > 0).sum()))
    return Tallied(
        metric,
        (float(control.sum()), float(treatment.sum())),
        wins,
        difference.size,
        preference_of(judged, plan),
        sign_test_p(*wins) if any(wins) else None,
        signed_rank_p(difference) if any(wins) else None,
    )


def preference_of(pair: Credits, plan: AnalysisPlan) -> Lift | None:
    """The mean of the users' signed ranks, whose sum over users who differ is at most 1 a user."""
    control, treatment = pair
    return lift_of(mean_effect(signed_ranks(treatment - control)), plan)


def signed_ranks(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """(U,) 0 for users without a preference, else the sign times a rank whose mean over the others is 1."""
    values = np.sign(difference)
    differs = values != 0
    values[differs] *= 2 * ranks_of(np.abs(difference[differs])) / (differs.sum() + 1)
    return values


def mean_effect(values: NDArray[np.float64]) -> Effect:
    """The mean of one value a user, as an effect: its intervals are those of every other."""
    n = values.size
    # where all users agree, nothing varies: then they are as uncertain as if one of them did not
    variance = max(float(values.var(ddof=1)), 1 / n) if values.any() else 0.0
    return Effect(float(values.mean()), float(np.sqrt(variance / n)), n - 1, n)


def decide_all(tallies: Sequence[Tallied], plan: AnalysisPlan) -> list[PreferenceVerdict]:
    """The primary metric is a family of its own; Holm corrects the others together."""
    adjusted: dict[str, float] = {}
    for primary in (True, False):
        own = [row for row in tallies if (row.metric == plan.primary) is primary]
        family = {row.metric: p for row in own if (p := look_p(row, plan)) is not None}
        adjusted |= dict(zip(family, holm(list(family.values())), strict=True))
    return [verdict_of(row, adjusted.get(row.metric), plan) for row in tallies]


def look_p(row: Tallied, plan: AnalysisPlan) -> float | None:
    """The signed rank test for the one planned look; for looks at any time that of the always-valid interval."""
    if row.lift is None:
        return None
    return row.p_signed_rank if plan.final else row.lift.p_always_valid


def verdict_of(row: Tallied, p_holm: float | None, plan: AnalysisPlan) -> PreferenceVerdict:
    return PreferenceVerdict(
        metric=row.metric,
        primary=row.metric == plan.primary,
        users=row.users,
        prefer_control=row.wins[0],
        prefer_treatment=row.wins[1],
        control_credit=row.credits[0],
        treatment_credit=row.credits[1],
        preference=row.lift,
        p_sign=row.p_sign,
        p_signed_rank=row.p_signed_rank,
        p_holm=p_holm,
        decision=decision(row, p_holm, plan),
    )


def decision(row: Tallied, p_holm: float | None, plan: AnalysisPlan) -> str:
    """One sentence for a product owner."""
    if row.lift is None or p_holm is None:
        return "not shown: nobody prefers either"
    if p_holm >= plan.alpha:
        return "no clear preference"
    less_is_better = row.metric in plan.lower_is_better
    is_more = row.lift.estimate > 0
    preferred = plan.treatments[0] if is_more is not less_is_better else plan.control
    return f"users prefer {preferred}"
