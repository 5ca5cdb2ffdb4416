"""Builds the report of an experiment from its event log; every figure that judges is the verdict's own.

`build_report` is the whole way: users -> sums -> verdict, then the same sums at earlier moments, then what was served.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from service.consumer.users import ACTIONS, BEFORE, RATES, ExperimentLog, ExposedUsers
from service.experiments.report.records import (
    ArmFacts,
    BundleFacts,
    ExposurePoint,
    LatencyFacts,
    LiftPoint,
    Overlap,
    Report,
)
from service.experiments.verdict.judge import AnalysisPlan, Verdict, judge, lifts
from service.experiments.verdict.sample_ratio import judge_ratio
from service.experiments.verdict.statistics import Kind, MetricColumns, from_users

MOMENTS = 40  # looks along the way; the verdict's any-look error rate was measured at as many
MIN_USERS = 30  # of each variation, for a lift along the way: no normal approximation holds for fewer
TOO_FEW = "not shown: a variation has fewer than 2 users"
METRICS = tuple(
    MetricColumns(metric=name, value=name) for name in ("plays", "watch_time_s", *(n for n in ACTIONS if n != "plays"))
)


def build_report(
    log: ExperimentLog,
    plan: AnalysisPlan,
    ratios: Sequence[MetricColumns] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Report:
    """settings: of each arm, as GET /arms tells them. Raises BadStatistics where log and plan contradict each other."""
    users = log.users_until()
    # what nobody did is no line of a report
    known = [with_covariate(column, users.frame) for column in METRICS]
    done = [column for column in known if users.frame[column.value].max() or column.metric == plan.primary]
    columns = [*done, *ratios]
    verdict = judge_users(users.frame, columns, plan)
    is_shown = bool(verdict.metrics)
    moments = moments_of(log)
    primary = [column for column in columns if column.metric == plan.primary]
    return replace(
        outline_of(log, users, plan, plan.weights, moments, settings or {}),
        verdict=verdict,
        progress=tuple(progress_of(log, primary, plan, moments)) if is_shown else (),
        overlap=tuple(overlaps_of(log, plan)) if is_shown else (),
    )


def with_covariate(column: MetricColumns, frame: pl.DataFrame) -> MetricColumns:
    """The metric with what the same users did before the experiment as its covariate, where the log tells it."""
    name = column.value + BEFORE
    return replace(column, covariate=name) if name in frame.columns else column


def outline_of(
    log: ExperimentLog,
    users: ExposedUsers,
    plan: AnalysisPlan,
    shares: Mapping[str, float],
    moments: Sequence[int],
    settings: Mapping[str, Mapping[str, Any]],
) -> Report:
    """A report of whatever kind, before it is judged: who was exposed to what, and when."""
    return Report(
        experiment=log.experiment,
        phase=log.phase,
        config=tuple(log.exposures["config"].unique(maintain_order=True)),
        since_ms=moments[0],
        until_ms=log.last_ms,
        testers=users.num_testers,
        moved=users.num_moved,
        primary=plan.primary,
        arms=tuple(arms_of(log, users, shares, settings)),
        exposures=tuple(exposures_of(log, shares, moments)),
        verdict=None,
        lower_is_better=tuple(sorted(plan.lower_is_better)),
    )


def judge_users(frame: pl.DataFrame, columns: Sequence[MetricColumns], plan: AnalysisPlan) -> Verdict:
    """The verdict; where a planned variation has hardly a user, the sample ratio alone."""
    counts = dict(frame.group_by("variation").len().iter_rows())
    if any(counts.get(name, 0) < 2 for name in plan.weights) and set(counts) <= set(plan.weights):
        users = {name: counts.get(name, 0) for name in plan.weights}
        return Verdict(
            sample_ratio=judge_ratio(users, plan.weights, plan.final),
            look="final" if plan.final else "any time",
            alpha=plan.alpha,
            control=plan.control,
            summary=TOO_FEW,
            metrics=(),
            guardrails=(),
            pause=(),
        )
    return judge(from_users(frame, [*columns, *rates_of(frame)]), plan)


def rates_of(frame: pl.DataFrame) -> Iterable[MetricColumns]:
    """The guard rails that the log can tell: a rate needs its denominator in every variation."""
    for name, (value, denominator) in RATES.items():
        if frame.group_by("variation").agg(pl.col(denominator).sum())[denominator].min():
            yield MetricColumns(metric=name, value=value, denominator=denominator, kind=Kind.RATIO)


def moments_of(log: ExperimentLog) -> list[int]:
    """Moments from the first exposure to the newest event, evenly apart."""
    first = int(log.exposures["ts_ms"].min())  # type: ignore[arg-type]  # of integers
    return [first + (log.last_ms - first) * number // MOMENTS for number in range(MOMENTS + 1)]


def exposures_of(log: ExperimentLog, shares: Mapping[str, float], moments: Sequence[int]) -> Iterable[ExposurePoint]:
    first = log.exposures.group_by("unit", maintain_order=True).agg(pl.col("variation").first(), pl.col("ts_ms").min())
    times = {name: np.sort(first.filter(pl.col("variation") == name)["ts_ms"].to_numpy()) for name in shares}
    for moment in moments:
        yield ExposurePoint(
            ts_ms=moment, users={name: int(np.searchsorted(own, moment, "right")) for name, own in times.items()}
        )


def progress_of(
    log: ExperimentLog, primary: Sequence[MetricColumns], plan: AnalysisPlan, moments: Sequence[int]
) -> Iterable[LiftPoint]:
    """The primary metric's lift at each moment, of the users exposed by then with what they had done by then."""
    for moment, frame in zip(moments[1:], log.users_at(moments[1:]), strict=True):
        counts = dict(frame.group_by("variation").len().iter_rows())
        if any(counts.get(name, 0) < MIN_USERS for name in plan.weights):
            continue
        rows = {row.variation: row for row in from_users(frame, primary) if row.cap is None}
        for treatment in plan.treatments:
            absolute, relative = lifts(rows[plan.control], rows[treatment], plan)
            users = counts[plan.control] + counts[treatment]
            if lift := relative or absolute:
                yield LiftPoint(
                    treatment=treatment, ts_ms=moment, users=users, relative=relative is not None, lift=lift
                )


def arms_of(
    log: ExperimentLog, users: ExposedUsers, shares: Mapping[str, float], settings: Mapping[str, Mapping[str, Any]]
) -> Iterable[ArmFacts]:
    counts = dict(users.frame.group_by("variation").len().iter_rows())
    for name, share in shares.items():
        own = log.exposures.filter(pl.col("variation") == name)
        bundles = own.filter(pl.col("bundle") != "").group_by("bundle", maintain_order=True)
        arms = tuple(own["assigned"].unique(maintain_order=True))
        # of an interleaving the arms are known by their bundles
        digests = {digest for bundle in own["bundle"].unique() for digest in bundle.split("+")}
        described = {arm: told for arm, told in settings.items() if arm in arms or told.get("bundle") in digests}
        yield ArmFacts(
            variation=name,
            arms=arms,
            share=share,
            users=counts.get(name, 0),
            bundles=tuple(
                BundleFacts(bundle=bundle, since_ms=since_ms, answers=answers)
                for bundle, since_ms, answers in bundles.agg(pl.col("ts_ms").min(), pl.len()).iter_rows()
            ),
            served=dict(own.group_by("served", maintain_order=True).len().sort("len", descending=True).iter_rows()),
            settings=described or None,
            varied=varied_of(own),
            latency=latency_of(log.shown.filter(pl.col("variation") == name)),
        )


def latency_of(shown: pl.DataFrame) -> LatencyFacts | None:
    """Quantiles by nearest rank; None without an answer that tells its time, as of an older service."""
    timed = shown.filter(pl.col("asked").is_not_null()).sort("took_ms")
    if not timed.height:
        return None
    reached = (1 / timed["share"]).cum_sum().to_numpy()
    places = np.searchsorted(reached, [quantile * reached[-1] for quantile in (0.5, 0.95, 0.99)])
    middle, late, last = (float(timed["took_ms"][int(place)]) for place in places)
    return LatencyFacts(answers=timed.height, p50_ms=middle, p95_ms=late, p99_ms=last)


def varied_of(exposures: pl.DataFrame) -> dict[str, int]:
    """Exposures by the settings that layers gave their lists, most first; none where no list was given any."""
    # older logs say nothing of it
    asked = exposures["settings"].fill_null("") if "settings" in exposures.columns else pl.Series(dtype=pl.String)
    counts = asked.alias("asked").value_counts(sort=True).sort("count", "asked", descending=[True, False])
    return dict(counts.iter_rows()) if (asked != "").any() else {}


def overlaps_of(log: ExperimentLog, plan: AnalysisPlan) -> Iterable[Overlap]:
    """How much of what a treatment shows the control shows too; nothing where one of them has no sampled list."""
    shown = log.shown.filter(pl.col("items").list.len() > 0)
    shares = {name: _impressions(shown.filter(pl.col("variation") == name)) for name in plan.weights}
    control = shares[plan.control]
    for treatment in plan.treatments:
        both = control.join(shares[treatment], on="items", suffix="_treatment")
        if control.height and shares[treatment].height:
            yield Overlap(
                treatment=treatment,
                share=float(both.select(pl.min_horizontal("weight", "weight_treatment").sum()).item()),
                control_items=control.height,
                treatment_items=shares[treatment].height,
                lists=shown.filter(pl.col("variation").is_in([plan.control, treatment])).height,
            )


def _impressions(shown: pl.DataFrame) -> pl.DataFrame:
    """Each item and its share of the impressions; a list weighs 1 over the chance that it was sampled."""
    items = shown.select("items", (1 / pl.col("share")).alias("weight")).explode("items")
    summed = items.group_by("items").agg(pl.col("weight").sum())
    return summed.with_columns(pl.col("weight") / pl.col("weight").sum())
