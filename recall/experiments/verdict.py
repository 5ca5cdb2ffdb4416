"""recall experiment judge: the verdict of a test from sums or from rows of users."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import polars as pl
import typer

from recall.experiments.verdict_table import show_preferences, show_verdict
from recall.options import StrictCommand, read_number, read_pairs, read_words, takes
from recall.terminal import last_line

if TYPE_CHECKING:
    from service.experiments.verdict.guardrails import Guardrail
    from service.experiments.verdict.judge import AnalysisPlan
    from service.experiments.verdict.statistics import MetricColumns, MetricStatistics

Option = typer.Option
Json = Annotated[bool, Option("--json", help="End with everything as one line of JSON.")]
experiment = typer.Typer(
    no_args_is_help=True, help="Plan and judge an A/B test.\n\nUsers are the unit of both.", rich_markup_mode=None
)
READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": pl.read_csv,
    ".json": pl.read_json,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCommand:
    """The options of `recall experiment judge`."""

    statistics: Annotated[
        list[Path], Option(help="Parquet, CSV or JSON of sums (docs/experiments.md) or users; repeat for other users.")
    ]
    primary: Annotated[str, Option(help="The one metric that decides, declared before the test.")]
    control: Annotated[
        str | None, Option(help="The variation that others are compared with. Default: 'control', or the first team.")
    ] = None
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
    """Judge a test: sample ratio first, then lifts with fixed and always-valid intervals, then guard rails.

    Of an interleaving: the draft's balance first, then which team users prefer.
    """
    from service.experiments.verdict.judge import judge
    from service.experiments.verdict.preference import judge_preferences, teams_of

    frames = [read_file(path) for path in options.statistics]
    if teams := teams_of(frames[0]):
        credits, metrics = keep_metrics(join_users(frames), read_words(options.metrics))
        preferences = judge_preferences(credits, make_interleaving_plan(options, teams, metrics))
        show_preferences(preferences)
        judged = preferences.as_json()
    else:
        rows = read_statistics(frames, options)
        verdict = judge(rows, make_plan(rows, options))
        show_verdict(verdict)
        judged = verdict.as_json()
    if options.json:
        last_line(judged)


def read_statistics(frames: list[pl.DataFrame], options: JudgeCommand) -> tuple["MetricStatistics", ...]:
    """Adds up all tables; those of users are one table first, so that they are winsorised together."""
    from service.experiments.verdict.statistics import combine, from_frame, from_users, is_table

    sums = [from_frame(frame) for frame in frames if is_table(frame)]
    users = [frame for frame in frames if not is_table(frame)]
    if users:
        # one table: a cap of winsorising is a quantile of all users, not of each file's
        frame = join_users(users)
        sums.append(from_users(frame, columns_of(frame, options)))
    return combine(*sums)


def join_users(frames: list[pl.DataFrame]) -> pl.DataFrame:
    if len({tuple(frame.columns) for frame in frames}) > 1:
        raise ValueError("the files of users have different columns")
    # relaxed: a column of whole numbers in one file may hold fractions in another
    return pl.concat(frames, how="vertical_relaxed")


def keep_metrics(credits: pl.DataFrame, names: list[str] | None) -> tuple[pl.DataFrame, list[str]]:
    """The credits of these metrics alone, of all without names; and the metrics."""
    from service.experiments.verdict.preference import BEGUN, BETWEEN, LOGS

    credited = dict.fromkeys(name.partition(BETWEEN)[0] for name in credits.columns if BETWEEN in name)
    known = [name for name in credited if name not in {BEGUN, *LOGS.values()}]
    refuse_unknown("--metrics", names or (), known)
    metrics = [name for name in known if name in (names or known)]
    # a metric is judged by its logarithm where that is there
    kept = {BEGUN, *metrics, *(LOGS[name] for name in metrics if name in LOGS)}
    columns = [name for name in credits.columns if name.partition(BETWEEN)[0] in kept or BETWEEN not in name]
    return credits.select(columns), metrics


def read_file(path: Path) -> pl.DataFrame:
    if path.suffix not in READERS:
        raise ValueError(f"{path} is none of {', '.join(READERS)}")
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    try:
        return READERS[path.suffix](path)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def columns_of(frame: pl.DataFrame, options: JudgeCommand) -> list["MetricColumns"]:
    """A column NAME is a metric, NAME_before its covariate; true and false is a proportion."""
    from service.consumer.users import BEFORE
    from service.experiments.verdict.statistics import Kind, MetricColumns

    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric() or kind == pl.Boolean]
    # an id may be a number too
    numbers = [name for name in numbers if name not in ("user_id", "variation") and not name.endswith(BEFORE)]
    columns = [
        MetricColumns(
            metric=name,
            value=name,
            covariate=name + BEFORE if name + BEFORE in frame.columns else None,
            kind=Kind.PROPORTION if frame.schema.get(name) == pl.Boolean else Kind.MEAN,
        )
        for name in read_words(options.metrics) or numbers
    ]
    return [*columns, *read_ratios(options.ratio)]


def read_ratios(given: list[str] | None) -> list["MetricColumns"]:
    """['NAME=COLUMN/COLUMN', ..] as metrics."""
    from service.experiments.verdict.statistics import Kind, MetricColumns

    columns = []
    for name, parts in read_pairs(given or [], "NAME=COLUMN/COLUMN").items():
        value, _, denominator = parts.partition("/")
        if not (value and denominator):
            raise ValueError(f"{name}={parts} is not NAME=COLUMN/COLUMN")
        columns.append(MetricColumns(metric=name, value=value, denominator=denominator, kind=Kind.RATIO))
    return columns


def make_plan(rows: Iterable["MetricStatistics"], options: JudgeCommand) -> "AnalysisPlan":
    from service.experiments.verdict.judge import AnalysisPlan

    metrics = dict.fromkeys(row.metric for row in rows)
    return AnalysisPlan(
        weights=make_weights(options.weights, sorted({row.variation for row in rows})),
        control=options.control or "control",
        primary=options.primary,
        lower_is_better=read_lower(options.lower_is_better, metrics),
        guardrails=read_guardrails(options.guardrail, metrics),
        alpha=options.alpha,
        final=options.final,
    )


class InterleavingOptions(Protocol):
    """The options of `judge` and `report` that an interleaving has, and those that it has not."""

    @property
    def primary(self) -> str: ...
    @property
    def control(self) -> str | None: ...
    @property
    def lower_is_better(self) -> str | None: ...
    @property
    def alpha(self) -> float: ...
    @property
    def final(self) -> bool: ...
    @property
    def weights(self) -> str | None: ...
    @property
    def ratio(self) -> list[str] | None: ...
    @property
    def guardrail(self) -> list[str] | None: ...


def make_interleaving_plan(
    options: InterleavingOptions, teams: tuple[str, ...], metrics: Collection[str]
) -> "AnalysisPlan":
    """The plan for two teams, the first of which is the control unless the options name the other.

    Raises ValueError for options that an interleaving cannot obey.
    """
    from service.experiments.verdict.judge import AnalysisPlan
    from service.experiments.verdict.preference import TUNED_USERS

    if options.weights or options.ratio or options.guardrail:
        raise ValueError("an interleaving has no --weights, --ratio or --guardrail: each user gets items of both teams")
    return AnalysisPlan(
        weights=dict.fromkeys(teams, 1 / len(teams)),
        control=options.control or teams[0],
        primary=options.primary,
        lower_is_better=read_lower(options.lower_is_better, metrics),
        guardrails=(),
        alpha=options.alpha,
        tuned_users=TUNED_USERS,
        final=options.final,
    )


def make_weights(given: str | None, variations: list[str]) -> dict[str, float]:
    """'control=.5,recgpt=.5' as shares; equal ones without it."""
    shares = read_pairs(read_words(given) or [], "VARIATION=SHARE")
    known = {name: read_number(share, f"the share of {name}") for name, share in shares.items()}
    return known or dict.fromkeys(variations, 1 / len(variations))


def read_lower(text: str | None, metrics: Collection[str]) -> frozenset[str]:
    """The metrics that should fall. Raises ValueError for a name that is none of `metrics`."""
    names = read_words(text) or []
    refuse_unknown("--lower-is-better", names, metrics)
    return frozenset(names)


def read_guardrails(given: list[str] | None, metrics: Collection[str]) -> tuple["Guardrail", ...]:
    """The guard rails known by name, some of them changed, and more; a known one may lack its metric as yet.

    Raises ValueError for another that is none of `metrics`: it would watch nothing.
    """
    from service.experiments.verdict.guardrails import GUARDRAILS

    known = {rail.metric: rail for rail in GUARDRAILS}
    own = {rail.metric: rail for rail in map(parse_guardrail, given or [])}
    refuse_unknown("--guardrail", own, [*known, *(name for name in metrics if name not in known)])
    # by name: what is given takes the place of a known guard rail
    return tuple((known | own).values())


def refuse_unknown(option: str, names: Collection[str], metrics: Collection[str]) -> None:
    if unknown := [name for name in names if name not in metrics]:
        raise ValueError(f"{option} names {unknown[0]!r}, and the metrics are {', '.join(metrics)}")


def parse_guardrail(text: str) -> "Guardrail":
    """'error_rate=.01' or 'latency_ms=10%'."""
    from service.experiments.verdict.guardrails import Guardrail

    ((name, value),) = read_pairs([text], "METRIC=RISE").items()
    relative = value.endswith("%")
    rise = read_number(value.rstrip("%"), f"the rise that {name} is allowed")
    return Guardrail(metric=name, tolerance=rise / (100 if relative else 1), relative=relative)
