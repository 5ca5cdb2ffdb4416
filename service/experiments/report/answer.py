"""The report that a request asks for, as bytes: what GET /experiments/{key}/report answers."""

from dataclasses import replace
from pathlib import Path

import orjson

from service.consumer.credits import read_credits
from service.consumer.users import read_experiment
from service.experiments.report.build import build_report
from service.experiments.report.interleaved import build_interleaving_report
from service.experiments.report.page import render_page
from service.experiments.report.planned import read_shares
from service.experiments.verdict.judge import AnalysisPlan
from service.experiments.verdict.preference import TUNED_USERS
from service.reports import ReportRequest

LOWER_IS_BETTER = frozenset({"hides"})


def answer(request: ReportRequest) -> bytes:
    """Raises BadStatistics, ConfigurationError and DataError where there is no such report."""
    log = read_experiment(Path(request.folder), request.key)
    shares = read_shares(Path(request.experiments), request.key, log.phase)
    control = next(iter(shares))
    plan = AnalysisPlan(weights=shares, control=control, primary=request.primary, lower_is_better=LOWER_IS_BETTER)
    if log.is_interleaving:
        plan = replace(plan, guardrails=(), tuned_users=TUNED_USERS)
        report = build_interleaving_report(read_credits(log), plan, request.settings)
    else:
        report = build_report(log, plan, settings=request.settings)
    return orjson.dumps(report.as_json()) if request.as_json else render_page(report).encode()
