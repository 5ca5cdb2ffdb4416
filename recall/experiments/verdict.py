"""recall experiment: how long a test must run, and its verdict. Users are the unit of both."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer

from recall.experiments.verdict_table import narrow_table, show_verdict
from recall.options import StrictCommand, read_pairs, read_words, takes
from recall.terminal import last_line, out

if TYPE_CHECKING:
    from service.experiments.verdict.guardrails import Guardrail
    from service.experiments.verdict.judge import AnalysisPlan
    from service.experiments.verdict.power import Baseline, ErrorRates
    from service.experiments.verdict.statistics import MetricColumns, MetricStatistics

Option = typer.Option
Json = Annotated[bool, Option("--json", help="End with everything as one line of JSON.")]
experiment = typer.Typer(
    no_args_is_help=True, help="Plan and judge an A/B test.\n\nUsers are the unit of both.", rich_markup_mode=None
)
COVARIATE = "_before"  # ends the name of a metric's pre-period column
HEADS = {"users_an_arm_any_time": "any time", "days_any_time": "days", "smallest_lift": "lift shown"}
READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": pl.read_csv,
    ".json": pl.read_json,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCommand:
    """The options of `recall experiment plan`."""

    metric: Annotated[
        list[str] | None, Option(help="NAME=MEAN/SD over users, or NAME=RATE of users; may be repeated.")
    ] = None
    metrics: Annotated[
        Path | None, Option(help="YAML {name: {mean, sd, rate, correlation}}, or CSV with these columns and name.")
    ] = None
    lift: Annotated[float, Option(help="Relative lift to find.")] = 0.02
    alpha: Annotated[float, Option(help="False alarms, two-sided.")] = 0.05
    power: Annotated[float, Option(help="Chance to find the lift.")] = 0.8
    users_per_day: Annotated[float | None, Option(help="New users a day in both arms: gives days.")] = None
    users: Annotated[
        int | None, Option(min=2, help="Users that each arm will have: gives the smallest lift they show.")
    ] = None
    json: Json = False


@experiment.command("plan", cls=StrictCommand)
@takes(PlanCommand)
def plan_experiment(options: PlanCommand) -> None:
    """Users an arm and days for a lift, for one planned look and for looks at any time."""
    from service.experiments.verdict.power import ErrorRates

    baselines = [*read_baselines(options.metrics), *(parse_baseline(text) for text in options.metric or [])]
    if not baselines:
        raise ValueError("nothing to plan: name a metric (--metric plays=9.1/10.6) or a file (--metrics)")
    rows = [plan_row(row, options, ErrorRates(alpha=options.alpha, power=options.power)) for row in baselines]
    out.print(f"a lift of {options.lift:+.2%}, alpha {options.alpha:g}, power {options.power:g}", markup=False)
    names = [name for name, value in rows[0].items() if value is not None]
    table = narrow_table(*(HEADS.get(name, name.replace("_", " ")) for name in names))
    for row in rows:
        table.add_row(*(show_number(row[name]) for name in names))
    out.print(table)
    if options.json:
        last_line({"lift": options.lift, "alpha": options.alpha, "power": options.power, "metrics": rows})


def plan_row(baseline: "Baseline", options: PlanCommand, design: "ErrorRates") -> dict[str, Any]:
    from service.experiments.verdict.power import days, detectable_lift, users_per_arm, users_per_arm_any_time

    fixed = users_per_arm(baseline, options.lift, design)
    any_time = users_per_arm_any_time(baseline, options.lift, design)
    daily, users = options.users_per_day, options.users
    return {
        "metric": baseline.name,
        "mean": baseline.mean,
        "sd": baseline.deviation,
        "users_an_arm": fixed,
        "days": days(fixed, daily) if daily is not None else None,
        "users_an_arm_any_time": any_time,
        "days_any_time": days(any_time, daily) if daily is not None else None,
        "smallest_lift": detectable_lift(baseline, users, design) if users is not None else None,
    }


def show_number(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def parse_baseline(text: str) -> "Baseline":
    """'plays=9.1/10.6' or 'likes=.21'."""
    ((name, value),) = read_pairs([text], "NAME=MEAN/SD or NAME=RATE").items()
    names = ("mean", "sd") if "/" in value else ("rate",)
    return make_baseline({"name": name} | dict(zip(names, value.split("/", 1), strict=True)), text)


def read_baselines(path: Path | None) -> Iterator["Baseline"]:
    """From YAML or CSV; nothing without a path."""
    import yaml

    if path is None:
        return
    if path.suffix == ".csv":
        rows = pl.read_csv(path).to_dicts()
    else:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
            raise ValueError(f"{path} is not a YAML map of metrics, each a map of mean, sd, rate or correlation")
        rows = [{"name": name} | row for name, row in content.items()]
    for row in rows:
        yield make_baseline({name: value for name, value in row.items() if value is not None}, str(path))


def make_baseline(row: dict[str, Any], place: str) -> "Baseline":
    from service.experiments.verdict.power import Baseline

    try:
        name, sizes = str(row["name"]), {key: float(value) for key, value in row.items() if key != "name"}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: a metric needs a name, and numbers ({error})") from error
    correlation = sizes.pop("correlation", 0.0)
    if set(sizes) == {"rate"}:
        return Baseline.of_rate(name, sizes["rate"], correlation)
    if set(sizes) == {"mean", "sd"}:
        return Baseline(name=name, mean=sizes["mean"], deviation=sizes["sd"], correlation=correlation)
    raise ValueError(f"{place}: {name} needs mean and sd, or rate alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCommand:
    """The options of `recall experiment judge`."""

    statistics: Annotated[
        list[Path], Option(help="Parquet, CSV or JSON of sums (docs/experiments.md) or users; repeat for other users.")
    ]
    primary: Annotated[str, Option(help="The one metric that decides, declared before the test.")]
    control: Annotated[str, Option(help="The variation that others are compared with.")] = "control"
    weights: Annotated[str | None, Option(help="Planned shares of users: control=.5,recgpt=.5. Default: equal.")] = None
    metrics: Annotated[str | None, Option(help="Columns of per-user rows, with commas. Default: all numbers.")] = None
    ratio: Annotated[
        list[str] | None, Option(help="NAME=COLUMN/COLUMN: a ratio of two sums over users; may be repeated.")
    ] = None
    lower_is_better: Annotated[str | None, Option(help="Metrics that should fall, with commas: hides.")] = None
    guardrail: Annotated[
        list[str] | None, Option(help="METRIC=.01 (absolute) or METRIC=10% (relative): the rise allowed; repeatable.")
    ] = None
    alpha: Annotated[float, Option(help="False alarms, two-sided.")] = 0.05
    final: Annotated[bool, Option("--final", help="This is the one planned look: fixed intervals decide.")] = False
    json: Json = False


@experiment.command("judge", cls=StrictCommand)
@takes(JudgeCommand)
def judge_experiment(options: JudgeCommand) -> None:
    """Judge a test: sample ratio first, then lifts with fixed and always-valid intervals, then guard rails."""
    from service.experiments.verdict.judge import judge

    rows = read_statistics(options)
    verdict = judge(rows, make_plan(rows, options))
    show_verdict(verdict)
    if options.json:
        last_line(verdict.as_json())


def read_statistics(options: JudgeCommand) -> tuple["MetricStatistics", ...]:
    """Adds up all files; those of users are one table first, so that they are winsorised together."""
    from service.experiments.verdict.statistics import combine, from_frame, from_users, is_table

    frames = [read_file(path) for path in options.statistics]
    sums = [from_frame(frame) for frame in frames if is_table(frame)]
    users = [frame for frame in frames if not is_table(frame)]
    if users:
        if len({tuple(frame.columns) for frame in users}) > 1:
            raise ValueError("the files of users have different columns")
        frame = pl.concat(users, how="vertical_relaxed")
        sums.append(from_users(frame, columns_of(frame, options)))
    return combine(*sums)


def read_file(path: Path) -> pl.DataFrame:
    if path.suffix not in READERS:
        raise ValueError(f"{path} is none of {', '.join(READERS)}")
    try:
        return READERS[path.suffix](path)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def columns_of(frame: pl.DataFrame, options: JudgeCommand) -> list["MetricColumns"]:
    """A column NAME is a metric, NAME_before its covariate; true and false is a proportion."""
    from service.experiments.verdict.statistics import Kind, MetricColumns

    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric() or kind == pl.Boolean]
    numbers = [name for name in numbers if name not in ("user_id", "variation") and not name.endswith(COVARIATE)]
    columns = [
        MetricColumns(
            metric=name,
            value=name,
            covariate=name + COVARIATE if name + COVARIATE in frame.columns else None,
            kind=Kind.PROPORTION if frame.schema.get(name) == pl.Boolean else Kind.MEAN,
        )
        for name in read_words(options.metrics) or numbers
    ]
    for name, parts in read_pairs(options.ratio or [], "NAME=COLUMN/COLUMN").items():
        value, _, denominator = parts.partition("/")
        columns.append(MetricColumns(metric=name, value=value, denominator=denominator, kind=Kind.RATIO))
    return columns


def make_plan(rows: Iterable["MetricStatistics"], options: JudgeCommand) -> "AnalysisPlan":
    from service.experiments.verdict.guardrails import GUARDRAILS
    from service.experiments.verdict.judge import AnalysisPlan

    names = sorted({row.variation for row in rows})
    given = read_pairs(read_words(options.weights) or [], "VARIATION=SHARE")
    rails = {rail.metric: rail for rail in GUARDRAILS}
    rails |= {rail.metric: rail for rail in map(parse_guardrail, options.guardrail or [])}
    return AnalysisPlan(
        weights={name: float(share) for name, share in given.items()} or dict.fromkeys(names, 1 / len(names)),
        control=options.control,
        primary=options.primary,
        lower_is_better=frozenset(read_words(options.lower_is_better) or ()),
        guardrails=tuple(rails.values()),
        alpha=options.alpha,
        final=options.final,
    )


def parse_guardrail(text: str) -> "Guardrail":
    """'error_rate=.01' or 'latency_ms=10%'."""
    from service.experiments.verdict.guardrails import Guardrail

    ((name, value),) = read_pairs([text], "METRIC=RISE").items()
    relative = value.endswith("%")
    return Guardrail(metric=name, tolerance=float(value.rstrip("%")) / (100 if relative else 1), relative=relative)
