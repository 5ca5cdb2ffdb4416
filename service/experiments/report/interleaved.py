"""Builds the report of an interleaving: whom users prefer, of two arms whose items they had in one list."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from service.consumer.credits import CreditLog
from service.experiments.report.build import MIN_USERS, moments_of, outline_of
from service.experiments.report.records import LiftPoint, Overlap, Report
from service.experiments.rules import INTERLEAVED
from service.experiments.verdict.judge import AnalysisPlan
from service.experiments.verdict.preference import judge_preferences, judged_by, preference_of, read_credits


def build_interleaving_report(
    credit_log: CreditLog, plan: AnalysisPlan, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> Report:
    """settings: of each arm, as GET /arms tells them. Raises BadStatistics where log and plan contradict each other."""
    log = credit_log.log
    preferences = judge_preferences(credit_log.users_until(), plan)
    is_shown = bool(preferences.metrics)
    moments = moments_of(log)
    return replace(
        outline_of(log, log.users_until(), plan, {INTERLEAVED: 1.0}, moments, settings or {}),
        preferences=preferences,
        progress=tuple(progress_of(credit_log, plan, moments[1:])) if is_shown else (),
        overlap=(overlap_of(credit_log, plan),) if is_shown else (),
    )


def progress_of(credit_log: CreditLog, plan: AnalysisPlan, moments: Sequence[int]) -> Iterable[LiftPoint]:
    """The preference of the users exposed by each moment, by what they had done by then."""
    for moment in moments:
        frame = credit_log.users_until(moment)
        if frame.height < MIN_USERS:
            continue
        if lift := preference_of(judged_by(read_credits(frame, plan), plan.primary), plan):
            yield LiftPoint(treatment=plan.treatments[0], ts_ms=moment, users=frame.height, relative=True, lift=lift)


def overlap_of(credit_log: CreditLog, plan: AnalysisPlan) -> Overlap:
    lists = credit_log.log.interleaved
    rows = lists.select(pl.col("items").alias("item"), pl.col("picks").alias("team")).explode("item", "team")
    shown = dict(rows.group_by("team").agg(pl.col("item").n_unique()).iter_rows())
    items = {team: shown.get(number, 0) for number, team in enumerate(credit_log.teams)}
    return Overlap(
        treatment=plan.treatments[0],
        share=credit_log.in_both,
        control_items=items[plan.control],
        treatment_items=items[plan.treatments[0]],
        lists=lists.height,
    )
