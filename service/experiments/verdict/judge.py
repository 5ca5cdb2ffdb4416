"""The verdict of an experiment from its sufficient statistics: a record that a product owner and a program can read.

`judge` is the whole way: sample ratio, then every metric of every treatment against the control, then guard rails.
Knows no events, no files and no screen. `service/experiments/verdict/estimates.py` has the formulas.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.errors import BadStatistics
from service.experiments.verdict.estimates import TUNED_USERS, Effect, compare, estimate_arm, variance_reduction
from service.experiments.verdict.guardrails import GUARDRAILS, Guardrail, GuardrailVerdict, judge_guardrail
from service.experiments.verdict.sample_ratio import RatioState, SampleRatio, judge_ratio
from service.experiments.verdict.statistics import MetricStatistics, check

NOT_SHOWN = "not shown: sample ratio mismatch"
Interval = tuple[float, float]
Table = dict[tuple[str, str, bool], MetricStatistics]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisPlan:
    """Everything that must be declared before the data are seen; `final` says that this is the one planned look."""

    weights: Mapping[str, float]
    control: str
    primary: str
    lower_is_better: frozenset[str] = frozenset()
    guardrails: Sequence[Guardrail] = GUARDRAILS
    alpha: float = 0.05
    tuned_users: int = TUNED_USERS
    final: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise BadStatistics(f"alpha is {self.alpha:g}, and must lie between 0 and .5")
        if self.control not in self.weights:
            raise BadStatistics(f"control {self.control!r} is none of {', '.join(sorted(self.weights))}")
        if self.primary in {rail.metric for rail in self.guardrails}:
            raise BadStatistics(f"{self.primary!r} cannot be the primary metric and a guard rail")

    @property
    def treatments(self) -> list[str]:
        return [name for name in self.weights if name != self.control]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """A difference with both intervals; fractions of the control's value where it is relative."""

    estimate: float
    fixed: Interval
    always_valid: Interval
    p: float
    p_always_valid: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Winsorised:
    """The same metric with every user's value capped."""

    cap: float
    absolute: Lift | None
    relative: Lift | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricVerdict:
    """One metric of one treatment. `p_holm` is the p of this kind of look, adjusted within its family."""

    metric: str
    kind: str
    treatment: str
    primary: bool
    users: int
    control_value: float
    treatment_value: float
    absolute: Lift | None
    relative: Lift | None
    variance_reduction: float | None
    winsorised: Winsorised | None
    p_holm: float | None
    decision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Metrics are empty while the sample ratio is red; guard rails stay, because they protect users."""

    sample_ratio: SampleRatio
    look: str
    alpha: float
    control: str
    summary: str
    metrics: tuple[MetricVerdict, ...]
    guardrails: tuple[GuardrailVerdict, ...]
    pause: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows of one metric in two variations, and their lifts before any correction."""

    control: MetricStatistics
    treatment: MetricStatistics
    absolute: Lift | None
    relative: Lift | None
    winsorised: Winsorised | None


def judge(statistics: Iterable[MetricStatistics], plan: AnalysisPlan) -> Verdict:
    """Raises BadStatistics where the table contradicts itself or the plan."""
    table = read_table(statistics, plan)
    ratio = judge_ratio(users_of(table, plan), plan.weights, plan.final)
    metrics = [] if ratio.state is RatioState.RED else decide(compare_all(table, plan), plan)
    rails = [
        judge_guardrail(rail, table[plan.control, rail.metric, False], table[treatment, rail.metric, False], plan.alpha)
        for rail in plan.guardrails
        if (plan.control, rail.metric, False) in table
        for treatment in plan.treatments
    ]
    return Verdict(
        sample_ratio=ratio,
        look="final" if plan.final else "any time",
        alpha=plan.alpha,
        control=plan.control,
        summary=summarise(ratio, metrics),
        metrics=tuple(metrics),
        guardrails=tuple(rails),
        pause=tuple(dict.fromkeys(rail.treatment for rail in rails if rail.pause)),
    )


def read_table(statistics: Iterable[MetricStatistics], plan: AnalysisPlan) -> Table:
    """Raises BadStatistics for impossible sums, double or missing rows, variations that the plan does not know."""
    table: Table = {}
    for row in statistics:
        check(row)
        if row.key in table:
            raise BadStatistics(f"{row.metric} of {row.variation} has two rows: only disjoint users add up")
        if row.variation not in plan.weights:
            raise BadStatistics(f"{row.variation!r} has no weight: weights are of {', '.join(plan.weights)}")
        table[row.key] = row
    for metric, capped in dict.fromkeys((row.metric, row.cap is not None) for row in table.values()):
        rows = [table.get((name, metric, capped)) for name in plan.weights]
        missing = [name for name, row in zip(plan.weights, rows, strict=True) if row is None]
        if missing:
            raise BadStatistics(f"{metric} has no row of {missing[0]!r}: one arm alone cannot be judged")
        if len({(row.kind, row.cap) for row in rows if row}) > 1:
            raise BadStatistics(f"{metric} has different kinds or caps in different variations")
    if (plan.control, plan.primary, False) not in table:
        rails = {rail.metric for rail in plan.guardrails}
        known = ", ".join(dict.fromkeys(metric for _, metric, _ in table if metric not in rails))
        raise BadStatistics(f"the primary metric {plan.primary!r} is not in the statistics: they have {known}")
    return table


def users_of(table: Table, plan: AnalysisPlan) -> dict[str, int]:
    """Users exposed; raises BadStatistics where a metric leaves some of them out."""
    users = {}
    for name in plan.weights:
        counts = {int(row.moments.n) for row in table.values() if row.variation == name}
        if len(counts) > 1:
            raise BadStatistics(
                f"metrics of {name} count {min(counts)} and {max(counts)} users: every exposed user counts in each"
            )
        users[name] = counts.pop()
    return users


def compare_all(table: Table, plan: AnalysisPlan) -> list[Comparison]:
    """Every metric that is no guard rail, the primary first."""
    rails = {rail.metric for rail in plan.guardrails}
    names = dict.fromkeys(metric for _, metric, _ in table if metric not in rails)
    ordered = sorted(names, key=lambda name: name != plan.primary)
    return [compare_rows(table, name, treatment, plan) for name in ordered for treatment in plan.treatments]


def compare_rows(table: Table, metric: str, treatment: str, plan: AnalysisPlan) -> Comparison:
    control, treated = table[plan.control, metric, False], table[treatment, metric, False]
    absolute, relative = lifts(control, treated, plan)
    capped, cap = table.get((plan.control, metric, True)), None
    if capped is not None and capped.cap is not None:
        pair = lifts(capped, table[treatment, metric, True], plan)
        cap = Winsorised(cap=capped.cap, absolute=pair[0], relative=pair[1])
    return Comparison(control, treated, absolute, relative, cap)


def lifts(
    control: MetricStatistics, treatment: MetricStatistics, plan: AnalysisPlan
) -> tuple[Lift | None, Lift | None]:
    """Absolute and relative; None where nothing varies, or where the control's value is not positive."""
    absolute, relative = compare(control.moments, treatment.moments, control.kind)
    positive = float(estimate_arm(control.moments, control.kind).value) > 0
    return lift_of(absolute, plan), lift_of(relative, plan) if positive else None


def lift_of(effect: Effect, plan: AnalysisPlan) -> Lift | None:
    if not float(effect.error) > 0:
        return None
    low, high = effect.interval(plan.alpha)
    low_ever, high_ever = effect.always_valid(plan.alpha, plan.tuned_users)
    return Lift(
        estimate=float(effect.estimate),
        fixed=(float(low), float(high)),
        always_valid=(float(low_ever), float(high_ever)),
        p=float(effect.p_value()),
        p_always_valid=float(effect.always_valid_p(plan.alpha, plan.tuned_users)),
    )


def decide(comparisons: Sequence[Comparison], plan: AnalysisPlan) -> list[MetricVerdict]:
    """The primary metric is a family of its own; Holm corrects the others together."""
    adjusted: dict[int, float] = {}
    for primary in (True, False):
        family = {
            place: look_p(row.absolute, plan)
            for place, row in enumerate(comparisons)
            if row.absolute is not None and (row.control.metric == plan.primary) is primary
        }
        adjusted |= dict(zip(family, holm(list(family.values())), strict=True))
    return [verdict_of(row, adjusted.get(place), plan) for place, row in enumerate(comparisons)]


def look_p(lift: Lift, plan: AnalysisPlan) -> float:
    return lift.p if plan.final else lift.p_always_valid


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down p values, in the order given."""
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


def verdict_of(row: Comparison, p_holm: float | None, plan: AnalysisPlan) -> MetricVerdict:
    control, treatment = row.control, row.treatment
    covaries = control.moments.has_covariate or treatment.moments.has_covariate
    return MetricVerdict(
        metric=control.metric,
        kind=control.kind.value,
        treatment=treatment.variation,
        primary=control.metric == plan.primary,
        users=int(control.moments.n + treatment.moments.n),
        control_value=float(estimate_arm(control.moments, control.kind).value),
        treatment_value=float(estimate_arm(treatment.moments, treatment.kind).value),
        absolute=row.absolute,
        relative=row.relative,
        variance_reduction=variance_reduction(control, treatment) if covaries else None,
        winsorised=row.winsorised,
        p_holm=p_holm,
        decision=decision(row, p_holm, plan),
    )


def decision(row: Comparison, p_holm: float | None, plan: AnalysisPlan) -> str:
    """One sentence for a product owner."""
    if row.absolute is None or p_holm is None:
        return "not shown: the metric does not vary"
    if p_holm < plan.alpha:
        better = (row.absolute.estimate > 0) is (row.control.metric not in plan.lower_is_better)
        return f"{row.treatment.variation} {'better' if better else 'worse'} than {plan.control}"
    scale, unit = (100, " %") if row.relative else (1, "")
    lift = row.relative or row.absolute
    widest = scale * max(abs(bound) for bound in (lift.fixed if plan.final else lift.always_valid))
    return f"no clear difference; one larger than {widest:.3g}{unit} is excluded"


def summarise(ratio: SampleRatio, metrics: Sequence[MetricVerdict]) -> str:
    if ratio.state is RatioState.RED:
        return NOT_SHOWN
    rows = [row for row in metrics if row.primary]
    names = [row.metric if len(rows) == 1 else f"{row.metric}, {row.treatment}" for row in rows]
    return "; ".join(f"{name}: {row.decision}" for name, row in zip(names, rows, strict=True))
