"""recall experiment report: an experiment as its event log tells it, in the terminal, as JSON and as a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recall.calling import CaOption, Trust, call
from recall.experiments.events import FOLDER
from recall.experiments.verdict import (
    Json,
    make_interleaving_plan,
    make_weights,
    read_guardrails,
    read_lower,
    read_ratios,
)
from recall.experiments.verdict_table import lift_cells, narrow_table, show_preferences, show_verdict
from recall.options import check_writable, takes
from recall.terminal import err, last_line, out

if TYPE_CHECKING:
    from service.consumer.users import ExperimentLog
    from service.experiments.report.records import Report
    from service.experiments.verdict.judge import AnalysisPlan
    from service.experiments.verdict.statistics import MetricColumns

Option = typer.Option
LOOKS_SHOWN = 8  # of the lift so far, in the terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportCommand:
    """The options of `recall experiment report`."""

    key: Annotated[str, typer.Argument(help="Key of the experiment.")]
    log: Annotated[Path, Option(help="Folder of the event log.")] = FOLDER
    phase: Annotated[str | None, Option(help="Phase of the experiment. Default: that of the newest exposure.")] = None
    primary: Annotated[str, Option(help="The one metric that decides, declared before the test.")] = "plays"
    experiments: Annotated[
        Path | None, Option(help="The experiments' file: planned shares, and the first variation as control.")
    ] = None
    weights: Annotated[str | None, Option(help="Planned shares: control=.5,recgpt=.5. Default: equal.")] = None
    control: Annotated[
        str | None, Option(help="The variation that others are compared with. Default: of the file, or 'control'.")
    ] = None
    ratio: Annotated[list[str] | None, Option(help="NAME=COLUMN/COLUMN of users, a metric more; repeatable.")] = None
    lower_is_better: Annotated[str, Option(help="Metrics that should fall, with commas.")] = "hides"
    guardrail: Annotated[
        list[str] | None, Option(help="METRIC=.01 (absolute) or METRIC=10% (relative): the rise allowed; repeatable.")
    ] = None
    alpha: Annotated[float, Option(help="False alarms, two-sided.")] = 0.05
    final: Annotated[bool, Option("--final", help="This is the one planned look: fixed intervals decide.")] = False
    url: Annotated[str | None, Option(help="A running service: the settings of its arms stand in the report.")] = None
    ca: CaOption = None
    html: Annotated[Path | None, Option(help="Write the report as one page to this file.")] = None
    json: Json = False


@takes(ReportCommand)
def report_experiment(options: ReportCommand) -> None:
    """An experiment's report from the event log: sample ratio, lifts with both intervals, guard rails, exposures.

    With --html as one page that loads nothing, with --json as one line.
    """
    from service.consumer.users import read_experiment
    from service.experiments.report.page import render_page

    check_writable(options.html)
    report = make_report(read_experiment(options.log, options.key, options.phase), options)
    show_report(report)
    if options.html:
        options.html.write_text(render_page(report), encoding="utf-8")
        err.print(f"the page is {options.html}")
    if options.json:
        last_line(report.as_json())


def make_report(log: "ExperimentLog", options: ReportCommand) -> "Report":
    from service.consumer.credits import METRICS, read_credits
    from service.experiments.report.build import build_report
    from service.experiments.report.interleaved import build_interleaving_report

    trust = Trust(options.ca)
    settings = call("GET", f"{options.url}/arms", trust=trust)["arms"] if options.url else None
    if log.is_interleaving:
        credit_log = read_credits(log)
        plan = make_interleaving_plan(options, credit_log.teams, METRICS)
        return build_interleaving_report(credit_log, plan, settings)
    # shares of what was seen, where no plan is given: a variation that nobody met cannot be judged
    seen = log.exposures["variation"].unique().sort().to_list()
    ratios = read_ratios(options.ratio)
    return build_report(log, plan_of(options, log.phase, seen, ratios), ratios, settings)


def plan_of(
    options: ReportCommand, phase: str, seen: list[str], ratios: Sequence["MetricColumns"] = ()
) -> "AnalysisPlan":
    """The plan of the options; shares come from the file, from --weights, or are equal."""
    from service.experiments.report.build import METRICS
    from service.experiments.report.planned import read_shares
    from service.experiments.verdict.judge import AnalysisPlan

    metrics = [column.metric for column in (*METRICS, *ratios)]
    weights, control = make_weights(options.weights, seen), options.control
    if options.experiments is not None:
        if options.weights is not None:
            raise ValueError("--weights and --experiments both say the planned shares; leave one of them out")
        weights = read_shares(options.experiments, options.key, phase)
        control = control or next(iter(weights))
    return AnalysisPlan(
        weights=weights,
        control=control or "control",
        primary=options.primary,
        lower_is_better=read_lower(options.lower_is_better, metrics),
        guardrails=read_guardrails(options.guardrail, metrics),
        alpha=options.alpha,
        final=options.final,
    )


def show_report(report: "Report") -> None:
    since, until = (datetime.fromtimestamp(at / 1e3, UTC) for at in (report.since_ms, report.until_ms))
    out.print(
        f"{report.experiment}, phase {report.phase or '(none)'}: {since:%d %b %Y %H:%M} to {until:%d %b %Y %H:%M} UTC"
    )
    if report.verdict is not None:
        show_verdict(report.verdict)
    if report.preferences is not None:
        show_preferences(report.preferences)
    show_progress(report)
    show_arms(report)
    for overlap in report.overlap:
        out.print(
            f"{overlap.treatment} and {report.judged.control} share {overlap.share:.1%} of "
            f"{'their impressions' if report.verdict else 'the items of a request'} ({overlap.lists:,} lists)"
        )
    if report.testers:
        out.print(f"{report.testers} testers are left out: they forced a variation")
    if report.moved:
        out.print(f"{report.moved} users met more than one variation; they count where they began")


def short_bundle(bundle: str) -> str:
    """The beginnings of the digests: an interleaved list has two."""
    return " + ".join(digest[:12] for digest in bundle.split("+"))


def show_arms(report: "Report") -> None:
    """The variations, with what answered them and what layers asked of their lists."""
    table = narrow_table("variation", "arm", "share", "users", "answered by (first request of a day)", "bundle")
    for arm in report.arms:
        served = ", ".join(f"{name} {count:,}" for name, count in arm.served.items())
        newest = short_bundle(arm.bundles[-1].bundle) if arm.bundles else "-"
        table.add_row(arm.variation, ", ".join(arm.arms), f"{arm.share:.1%}", f"{arm.users:,}", served, newest)
    out.print(table)
    for arm in report.arms:
        asked = [f"{settings or 'its own'} {count:,}" for settings, count in arm.varied.items()]
        if asked:
            out.print(f"settings of the lists of {arm.variation}: {', '.join(asked)}", markup=False)
    for arm in report.arms:
        if took := arm.latency:
            spread = f"median {took.p50_ms:.3g} ms, p95 {took.p95_ms:.3g} ms, p99 {took.p99_ms:.3g} ms"
            out.print(f"answers of {arm.variation} took: {spread} ({took.answers:,} sampled)", markup=False)


def show_progress(report: "Report") -> None:
    """The lift so far, at a few moments."""
    for treatment in dict.fromkeys(point.treatment for point in report.progress):
        points = [point for point in report.progress if point.treatment == treatment]
        what = "lift" if report.verdict else "preference"
        table = narrow_table(f"{report.primary} so far, {treatment}", "users", what, "always valid")
        # every n-th from the end backwards, so that the newest look is always among them
        for point in points[:: -max(1, len(points) // LOOKS_SHOWN)][::-1]:
            moment = datetime.fromtimestamp(point.ts_ms / 1e3, UTC)
            lift, _, always = lift_cells(point.lift if point.relative else None, point.lift)
            table.add_row(f"{moment:%d %b %H:%M}", f"{point.users:,}", lift, always)
        out.print(table)
