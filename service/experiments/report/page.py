"""The report as one page: HTML, CSS and SVG in one file, no script, nothing loaded from anywhere.

The template (page.html) lays out; here is what it shows, as text and places. Values are escaped by the template engine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError
from service.experiments.report.charts import (
    LABEL_GAP,
    Line,
    Scale,
    Tick,
    Whiskers,
    band_of,
    forest_scale,
    lines_of,
    scale_of,
    spread,
    time_ticks,
    whiskers_of,
)
from service.experiments.report.records import LiftPoint, Report
from service.experiments.verdict.guardrails import MIN_USERS, GuardrailVerdict
from service.experiments.verdict.judge import MetricVerdict, Verdict
from service.experiments.verdict.preference import Preferences, PreferenceVerdict
from service.experiments.verdict.sample_ratio import RED, YELLOW, RatioState, SampleRatio

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
except ImportError as error:
    raise ConfigurationError("a report's page needs Jinja: pip install 'recgpt-recall[analysis]'") from error

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a forest plot: a metric or a guard rail."""

    name: str
    values: str
    figure: str
    fixed: str
    wide: str
    sentence: str
    whiskers: Whiskers | None
    strong: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Forest:
    """The metrics of one treatment, with what their estimates mean."""

    treatment: str
    meaning: str  # of the dot
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over time, with an always-valid band where there is one."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero: float | None = None
    band: str = ""
    edges: tuple[tuple[float, str], ...] = ()  # labels of the band's ends


@dataclass(frozen=True, slots=True)
class Check:
    """The check that comes first: while it is red there is nothing else to look at."""

    title: str
    ratio: SampleRatio
    counts: str
    hidden: str  # why there is no verdict while it is red

    @property
    def is_red(self) -> bool:
        return self.ratio.state is RatioState.RED


def render_page(report: Report) -> str:
    """The page as text."""
    judged, rails = report.judged, report.verdict.guardrails if report.verdict else ()
    return ENVIRONMENT.get_template("page.html").render(
        report=report,
        judged=judged,
        check=check_of(report),
        limits=(YELLOW, RED),
        confidence=f"{100 * (1 - judged.alpha):g} %",
        forests=forests_of(report),
        pause=report.verdict.pause if report.verdict else (),
        rails=[rail_row(rail) for rail in rails],
        exposures=exposure_chart(report),
        progress=[progress_chart(report, treatment) for treatment in treatments_of(report.progress)],
        settings=settings_of(report),
        varied=any(arm.varied for arm in report.arms),
        timed=[arm for arm in report.arms if arm.latency],
        rail_users=MIN_USERS,
        less=[name for name in report.lower_is_better if name in {row.metric for row in judged.metrics}],
        show_time=show_time,
        percent=show_share,
    )


def check_of(report: Report) -> Check:
    judged = report.judged
    if isinstance(judged, Verdict):
        hidden = "users are missing from a variation, and who is missing decides the difference"
        return Check("Sample ratio", judged.sample_ratio, counts_of(judged.sample_ratio, "users"), hidden)
    hidden = "one team begins more lists than a fair coin lets it, and what is seen first is liked first"
    return Check("Draft balance", judged.balance, counts_of(judged.balance, "lists begun"), hidden)


def counts_of(ratio: SampleRatio, what: str) -> str:
    counts = [f"{name} {count:,} {what}, {ratio.expected[name]:,.0f} expected" for name, count in ratio.users.items()]
    return "; ".join(counts)


def treatments_of(points: Sequence[LiftPoint]) -> list[str]:
    return list(dict.fromkeys(point.treatment for point in points))


def forests_of(report: Report) -> list[Forest]:
    if report.preferences is not None:
        return [preference_forest(report.preferences)] if report.preferences.metrics else []
    forests, metrics = [], report.verdict.metrics if report.verdict else ()
    # one scale for all treatments, so that they can be compared
    lifts = [row.relative for row in metrics if row.relative is not None]
    scale = forest_scale([lift.always_valid for lift in lifts]) if lifts else Scale(-1.0, 1.0)
    for treatment in dict.fromkeys(row.treatment for row in metrics):
        rows = [row for row in metrics if row.treatment == treatment]
        lines = tuple(metric_row(row, scale) for row in rows)
        forests.append(Forest(treatment, "the lift", lines, tuple(scale.ticks(show_percent))))
    return forests


def preference_forest(preferences: Preferences) -> Forest:
    shown = [row.preference.always_valid for row in preferences.metrics if row.preference]
    scale = forest_scale(shown) if shown else Scale(-1.0, 1.0)
    teams = (preferences.control, preferences.treatment)
    rows = tuple(preference_row(row, scale, teams) for row in preferences.metrics)
    meaning = f"the preference, from {MINUS}100 % (all {teams[0]}) to +100 % (all {teams[1]}); a user counts by rank"
    return Forest(teams[1], meaning, rows, tuple(scale.ticks(show_percent)))


def preference_row(row: PreferenceVerdict, scale: Scale, teams: tuple[str, str]) -> Row:
    lift = row.preference
    tests = f" (signed rank p {row.p_signed_rank:.2g}, sign test p {row.p_sign:.2g})" if row.p_sign is not None else ""
    return Row(
        name=row.metric + " (primary)" * row.primary,
        values=f"{row.prefer_control:,} prefer {teams[0]}, {row.prefer_treatment:,} {teams[1]}, of {row.users:,}",
        figure=show_percent(lift.estimate) if lift else "–",
        fixed=f"one look {show_interval(lift.fixed, show_percent)}" if lift else "–",
        wide=show_interval(lift.always_valid, show_percent) if lift else "–",
        sentence=row.decision + tests,
        whiskers=whiskers_of(scale, lift.estimate, lift.fixed, lift.always_valid) if lift else None,
        strong=row.primary,
        note="" if row.p_holm is None else f"p {row.p_holm:.2g}",
    )


def metric_row(row: MetricVerdict, scale: Scale) -> Row:
    """A metric's line; one without a relative lift has figures alone, since it shares no unit with the others."""
    lift = row.relative or row.absolute
    show = show_percent if row.relative else show_signed
    whiskers = whiskers_of(scale, lift.estimate, lift.fixed, lift.always_valid) if lift and row.relative else None
    return Row(
        name=row.metric + " (primary)" * row.primary,
        values=f"{row.control_value:.4g} → {row.treatment_value:.4g}",
        figure=show(lift.estimate) if lift else "–",
        fixed=f"one look {show_interval(lift.fixed, show)}" if lift else "–",
        wide=show_interval(lift.always_valid, show) if lift else "–",
        sentence=row.decision,
        whiskers=whiskers,
        strong=row.primary,
        note=" · ".join(notes_of(row)),
    )


def notes_of(row: MetricVerdict) -> Iterator[str]:
    if row.p_holm is not None:
        yield f"p {row.p_holm:.2g}"
    # one that takes nothing away has moved nothing
    if row.variance_reduction is not None and row.variance_reduction >= 0.005:
        yield f"adjusted by the users' own pre-period (CUPED): {show_share(row.variance_reduction)} less variance"
    if (capped := row.winsorised) and (lift := capped.relative or capped.absolute):
        show = show_percent if capped.relative else show_signed
        yield f"users capped at {capped.cap:.4g}: {show(lift.estimate)}, {show_interval(lift.always_valid, show)}"


def rail_row(rail: GuardrailVerdict) -> Row:
    """A guard rail's line, on a scale of its own that holds its tolerance."""
    show = show_percent if rail.relative else show_signed
    whiskers, figure, wide = None, "–", "–"
    if rail.rise is not None and rail.always_valid is not None:
        scale = scale_of((rail.rise, *rail.always_valid, 1.6 * rail.tolerance))
        whiskers = whiskers_of(scale, rail.rise, (rail.rise, rail.rise), rail.always_valid, rail.tolerance)
        figure, wide = show(rail.rise), show_interval(rail.always_valid, show)
    return Row(
        name=f"{rail.metric}, {rail.treatment}",
        values=f"{rail.control_value:.4g} → {rail.treatment_value:.4g}",
        figure=figure,
        fixed=f"allowed {show(rail.tolerance)}",
        wide=wide,
        sentence=rail.state,
        whiskers=whiskers,
        strong=rail.pause,
    )


def exposure_chart(report: Report) -> Chart:
    names = [arm.variation for arm in report.arms]
    series = [[(float(point.ts_ms), float(point.users[name])) for point in report.exposures] for name in names]
    x = Scale(report.since_ms, max(report.until_ms, report.since_ms + 1))
    y = Scale(0.0, 1.08 * max(1.0, *(points[-1][1] for points in series)))
    lines = [(name, f"{points[-1][1]:,.0f}", points) for name, points in zip(names, series, strict=True)]
    ticks = tuple(y.ticks(show_count, 5))
    return Chart("Users exposed so far", tuple(lines_of(lines, x, y)), tuple(time_ticks(x)), ticks)


def progress_chart(report: Report, treatment: str) -> Chart:
    """The primary metric's lift so far, with the band that holds at all looks together."""
    points = [point for point in report.progress if point.treatment == treatment]
    relative = points[-1].relative
    show = show_percent if relative else show_signed
    x = Scale(report.since_ms, max(report.until_ms, report.since_ms + 1))
    lows = [(float(point.ts_ms), point.lift.always_valid[0]) for point in points]
    highs = [(float(point.ts_ms), point.lift.always_valid[1]) for point in points]
    estimates = [(float(point.ts_ms), point.lift.estimate) for point in points]
    # the first looks are so wide that the last could not be read: the scale is that of the later half
    later = points[len(points) // 2 :]
    y = scale_of(bound for point in later for bound in point.lift.always_valid)
    [line] = lines_of([(treatment, show(estimates[-1][1]), estimates)], x, y)
    ends = [round(100 - y.at(bound), 2) for bound in (highs[-1][1], estimates[-1][1], lows[-1][1])]
    places = spread(ends, LABEL_GAP)
    edges = ((places[0], show(highs[-1][1])), (places[2], show(lows[-1][1])))
    # the title names the one line
    drawn = Line(line.points, "", line.figure, places[1], line.dash)
    what = "lift of" if report.verdict else "preference for"
    title = f"{report.primary}: {what} {treatment} over {report.judged.control} so far"
    zero = round(100 - y.at(0.0), 2)
    return Chart(
        title, (drawn,), tuple(time_ticks(x)), tuple(y.ticks(show, 5)), zero, band_of(lows, highs, x, y), edges
    )


def settings_of(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """The settings of each arm as pairs of text, flat."""
    described = {name: own for arm in report.arms for name, own in (arm.settings or {}).items()}
    return [(name, list(flat(own))) for name, own in described.items()]


def flat(value: Any, name: str = "") -> Sequence[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, own in value.items() for pair in flat(own, f"{name}.{key}" if name else str(key))]
    shown = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return [(name, shown or "none")]


def show_time(ts_ms: float) -> str:
    return datetime.fromtimestamp(ts_ms / 1e3, UTC).strftime("%d %b %Y %H:%M")


def show_count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else ""


def show_share(value: float) -> str:
    return f"{100 * value:.3g} %"


def show_percent(value: float) -> str:
    return f"{100 * value:+.3g} %".replace("-", MINUS) if value else "0 %"


def show_signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", MINUS) if value else "0"


def show_interval(interval: tuple[float, float], show: Any) -> str:
    return f"{show(interval[0])} to {show(interval[1])}"
