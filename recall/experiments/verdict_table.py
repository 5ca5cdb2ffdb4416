"""A verdict as tables and sentences in the terminal, within 80 columns."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from recall.terminal import out

if TYPE_CHECKING:
    from service.experiments.verdict.guardrails import GuardrailVerdict
    from service.experiments.verdict.judge import Lift, MetricVerdict, Verdict
    from service.experiments.verdict.preference import Preferences


def show_verdict(verdict: "Verdict") -> None:
    ratio = verdict.sample_ratio
    users = ", ".join(f"{name} {count:,} of {ratio.expected[name]:,.0f}" for name, count in ratio.users.items())
    out.print(f"sample ratio {ratio.state}: {users} expected (p {ratio.p:.3g})", markup=False)
    out.print(f"{verdict.summary} (look: {verdict.look})", markup=False)
    for treatment in dict.fromkeys(row.treatment for row in verdict.metrics):
        show_metrics([row for row in verdict.metrics if row.treatment == treatment], verdict.control)
    if verdict.guardrails:
        table = narrow_table("guard rail", "arm", verdict.control, "arm's", "rise", "always valid", "allowed")
        for rail in verdict.guardrails:
            table.add_row(*rail_cells(rail))
        out.print(table)
    for rail in verdict.guardrails:
        out.print(f"{rail.metric} of {rail.treatment}: {rail.state}", markup=False)
    for treatment in verdict.pause:
        out.print(f"pause recommended: {treatment} breaches a guard rail", markup=False)


def show_preferences(preferences: "Preferences") -> None:
    """An interleaving's verdict: who prefers which of two teams."""
    balance, teams = preferences.balance, (preferences.control, preferences.treatment)
    begun = ", ".join(f"{name} {count:,} of {balance.expected[name]:,.0f}" for name, count in balance.users.items())
    out.print(f"draft balance {balance.state}: lists begun by {begun} expected (p {balance.p:.3g})", markup=False)
    out.print(f"{preferences.summary} (look: {preferences.look})", markup=False)
    if not preferences.metrics:
        return
    out.print(f"users who prefer either; their preference, from -100% (all {teams[0]}) to +100%, each by rank:")
    table = narrow_table("metric", *teams, "preference", "fixed", "always valid", "p")
    for row in preferences.metrics:
        p = "-" if row.p_holm is None else f"{row.p_holm:.2g}"
        counts = (f"{row.prefer_control:,}", f"{row.prefer_treatment:,}")
        table.add_row(row.metric, *counts, *lift_cells(row.preference, None), p)
    out.print(table)
    for row in preferences.metrics:
        out.print(f"{row.metric}{' (primary)' * row.primary}: {row.decision}", markup=False)


def show_metrics(rows: "list[MetricVerdict]", control: str) -> None:
    """One treatment: a table of figures, then a sentence a metric."""
    table = narrow_table("metric", control, rows[0].treatment, "lift", "fixed", "always valid", "p")
    for row in rows:
        for cells in metric_cells(row):
            table.add_row(*cells)
    out.print(table)
    for row in rows:
        out.print(f"{row.metric}{' (primary)' * row.primary}: {row.decision}{show_adjustment(row)}", markup=False)


def show_adjustment(row: "MetricVerdict") -> str:
    """Says why a lift is no quotient of the two means, where it is none."""
    if row.variance_reduction is None or row.variance_reduction < 0.005:
        return ""
    return f" (CUPED: {row.variance_reduction:.0%} less variance)"


def narrow_table(*head: str) -> Table:
    """Fits 80 columns, and folds rather than cuts a figure."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in head:
        table.add_column(name, overflow="fold")
    return table


def metric_cells(row: "MetricVerdict") -> Iterator[tuple[str, ...]]:
    """A line of the metric, and one of it winsorised."""
    values = (f"{row.control_value:.4g}", f"{row.treatment_value:.4g}")
    p = "-" if row.p_holm is None else f"{row.p_holm:.2g}"
    yield row.metric, *values, *lift_cells(row.relative, row.absolute), p
    if row.winsorised is not None:
        capped = row.winsorised
        yield f"  capped {capped.cap:.4g}", "", "", *lift_cells(capped.relative, capped.absolute), ""


def lift_cells(relative: "Lift | None", absolute: "Lift | None") -> tuple[str, str, str]:
    """Estimate, fixed and always-valid interval; in percent where a relative one exists."""
    lift = relative or absolute
    if lift is None:
        return "-", "-", "-"
    show = show_percent if relative else show_signed
    return show(lift.estimate), show_interval(lift.fixed, show), show_interval(lift.always_valid, show)


def rail_cells(rail: "GuardrailVerdict") -> tuple[str, ...]:
    show = show_percent if rail.relative else show_signed
    rise = "-" if rail.rise is None else show(rail.rise)
    interval = "-" if rail.always_valid is None else show_interval(rail.always_valid, show)
    values = (f"{rail.control_value:.4g}", f"{rail.treatment_value:.4g}")
    return rail.metric, rail.treatment, *values, rise, interval, show(rail.tolerance)


def show_interval(interval: tuple[float, float], show: Callable[[float], str]) -> str:
    low, high = show(interval[0]), show(interval[1])
    return f"{low.removesuffix('%')}..{high}"


def show_percent(value: float) -> str:
    return f"{100 * value:+.3g}%"


def show_signed(value: float) -> str:
    return f"{value:+.3g}"
