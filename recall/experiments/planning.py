"""recall experiment plan: how long a test must run. Users are the unit."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer

from recall.experiments.verdict import Json
from recall.experiments.verdict_table import narrow_table, show_percent
from recall.options import read_pairs, takes
from recall.terminal import last_line, out

if TYPE_CHECKING:
    from service.experiments.verdict.power import Baseline, ErrorRates

Option = typer.Option
PERCENT = {"smallest_lift"}
HEADS = {"users_an_arm_any_time": "any time", "days_any_time": "days", "smallest_lift": "lift shown"}


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


@takes(PlanCommand)
def plan_experiment(options: PlanCommand) -> None:
    """Users an arm and days for a lift, for one planned look and for looks at any time."""
    from service.experiments.verdict.power import ErrorRates

    baselines = [*read_baselines(options.metrics), *(parse_baseline(text) for text in options.metric or [])]
    if not baselines:
        raise ValueError("nothing to plan: name a metric (--metric plays=9.1/10.6) or a file (--metrics)")
    rows = [plan_row(row, options, ErrorRates(alpha=options.alpha, power=options.power)) for row in baselines]
    out.print(f"a lift of {options.lift:+.2%}, alpha {options.alpha:g}, power {options.power:g}", markup=False)
    # columns that were not asked for, such as days without users a day, are None in every row
    names = [name for name, value in rows[0].items() if value is not None]
    table = narrow_table(*(HEADS.get(name, name.replace("_", " ")) for name in names))
    for row in rows:
        table.add_row(*(show_percent(row[name]) if name in PERCENT else show_number(row[name]) for name in names))
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
