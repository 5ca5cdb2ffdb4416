"""recall experiment replay: the options, the tables on the terminal, and the row that a page is written from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer

from recall.experiments.verdict_table import narrow_table, show_interval, show_percent, show_verdict
from recall.options import check_writable, read_pairs, read_words, takes
from recall.terminal import err, last_line, out

if TYPE_CHECKING:
    from recall.replay.arms import Workshop
    from recall.replay.audiences.audience import Audience
    from recall.replay.lifts import TwinLift
    from recall.replay.preferences import Agreement
    from recall.replay.salts import Tally
    from recall.replay.study import Study
    from recall.replay.trial import TrialRun

Option = typer.Option
AUDIENCES = {"kuairec": "kuairec/kuairec_fully_observed.npz", "kuairand": "kuairand_pure"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayCommand:
    """The options of `recall experiment replay`."""

    audience: Annotated[
        str, typer.Argument(help="kuairec: 1,129 users whose preferences are all known; kuairand: 24,548, modelled.")
    ]
    data: Annotated[Path, Option(help="Folder with kuairec/ and kuairand_pure/ (docs/data.md).")]
    work: Annotated[Path, Option(help="Folder for data, bundles and worlds; what is there is not made again.")]
    arm: Annotated[
        list[str] | None,
        Option(help="comirec=BUNDLE or recgpt=BUNDLE. Default: trained by the data set's recipe, where it is missing."),
    ] = None
    sessions: Annotated[int, Option(min=1, help="Lists that each user is shown.")] = 5
    top_n: Annotated[int, Option(min=1, help="Length of a list.")] = 10
    dropped: Annotated[
        str, Option(help="Twins without so many of the most popular videos; several with commas; kuairec alone.")
    ] = "0"
    users: Annotated[int | None, Option(min=100, help="The first so many users alone: a try.")] = None
    users_a_request: Annotated[
        int,
        Option(min=1, max=256, help="Of the A/B run: 1 = POST /recall for each user; more = /recall/batch: quicker."),
    ] = 1
    salts: Annotated[int, Option(min=1, help="Salts under which the A/B test is run again offline.")] = 200
    draws: Annotated[
        int,
        Option(min=0, help="Draws of 500 users of a world of interleaved lists, against the twins; 0 = no such world."),
    ] = 200
    seed: Annotated[int, Option(help="Seed of training, of the users' order, of what is drawn, and of the salt.")] = 0
    output: Annotated[Path | None, Option(help="JSON Lines file to which the result is appended.")] = None


@takes(ReplayCommand)
def replay(options: ReplayCommand) -> None:
    """An A/B test of both arms with users whose preferences are known, through a real service.

    Twins meet both arms: that is the true lift. Then the experiment assigns, and the verdict on the event log is held
    against it. The last line is JSON.
    """
    from recall.replay.study import Study, digest_of
    from recall.replay.world import Script

    check_writable(options.output)
    workshop = open_workshop(options)
    given = {name: Path(path) for name, path in read_pairs(options.arm or [], "NAME=BUNDLE").items()}
    if unknown := set(given) - {"comirec", "recgpt"}:
        raise ValueError(f"--arm {min(unknown)}: the arms of a replay are comirec and recgpt")
    dropped = read_dropped(options.dropped)
    audience = open_audience(workshop, options)
    for number in dropped:
        audience.rules(number)  # before hours of work, not after them
    script = Script(sessions=options.sessions, top_n=options.top_n)
    say = lambda text: err.print(text, markup=False)  # noqa: E731
    study = Study(audience, workshop.bundles(given), script, options.work, options.seed, say)
    worlds = {number: study.twins(number) for number in dropped}
    lifts = {number: study.lifts(twins) for number, twins in worlds.items()}
    for number, rows in lifts.items():
        show_twins(rows, len(audience.users), number)
    everything = worlds[0]
    trial = study.trial(everything, options.users_a_request)
    show_trial(trial)
    tallies = study.salts(everything, options.salts)
    show_salts(tallies)
    preferred = {
        number: study.agreements(number, rows, options.draws) for number, rows in lifts.items() if options.draws
    }
    for number, agreed in preferred.items():
        show_agreements(agreed, number)
    facts = facts_of(study, options) | {"digest": digest_of([*everything.values()]), **shares(everything)}
    result = (
        as_row(lifts, trial, tallies)
        | {"interleaved": as_agreements(preferred)}
        | {"calibration": audience.calibrations(), "met": met_pairs(everything)}
        | facts
    )
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    last_line(result)


def open_workshop(options: ReplayCommand) -> "Workshop":
    from recall.replay.arms import Workshop

    if options.audience not in AUDIENCES:
        raise ValueError(f"no audience is called {options.audience!r}; there are {' and '.join(AUDIENCES)}")
    options.work.mkdir(parents=True, exist_ok=True)
    return Workshop(options.work, options.audience, options.data / AUDIENCES[options.audience], options.seed)


def open_audience(workshop: "Workshop", options: ReplayCommand) -> "Audience":
    from recall.replay.audiences.kuairand import LogAudience
    from recall.replay.audiences.matrix import MatrixAudience

    if options.audience == "kuairec":
        return MatrixAudience(workshop.source, workshop.data(), options.seed, options.users)
    return LogAudience(workshop.source, options.seed, options.users)


def read_dropped(text: str) -> list[int]:
    """'0,50' -> [0, 50]; 0 is always among them, since the A/B run is held against it."""
    words = read_words(text) or []
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--dropped is {text!r}; it takes whole numbers with commas between them")
    return sorted({0, *map(int, words)})


def show_twins(rows: "Sequence[TwinLift]", users: int, dropped: int) -> None:
    out.print(f"twins: {users:,} users with either arm, without the {dropped} most popular videos", markup=False)
    table = narrow_table("metric", "comirec", "recgpt", "lift", "fixed", "always valid", "correlation")
    for row in rows:
        intervals = (show_interval(interval, show_percent) for interval in (row.fixed, row.always_valid))
        means = (f"{row.control:.4g}", f"{row.treatment:.4g}")
        table.add_row(row.metric, *means, show_percent(row.lift), *intervals, f"{row.correlation:.2f}")
    out.print(table)


def show_trial(trial: "TrialRun") -> None:
    out.print(
        f"A/B run: {trial.users:,} users in the event log, {trial.differing} differ from their twin", markup=False
    )
    show_verdict(trial.verdict)


def show_salts(tallies: "Mapping[str, Tally]") -> None:
    table = narrow_table("metric", "salts", "covered, users anew", "same users", "A/A alarms", "at any of 40 looks")
    for name, tally in tallies.items():
        rates = tally.rates()
        names = ("covered_anew", "covered_same", "false_alarms", "ever_alarms")
        table.add_row(name, str(tally.salts), *(f"{rates[column]:.1%}" for column in names))
    out.print(table)


def show_agreements(rows: "Sequence[Agreement]", dropped: int) -> None:
    out.print(f"interleaved lists, without the {dropped} most popular videos", markup=False)
    table = narrow_table("metric", "true lift", "prefer comirec", "recgpt", "draws agree", "clear", "clear and wrong")
    for row in rows:
        preferring = (f"{row.prefer_control:,}", f"{row.prefer_treatment:,}")
        rates = (f"{rate:.1%}" for rate in (row.agrees, row.clear, row.clear_and_wrong))
        table.add_row(row.metric, show_percent(row.lift), *preferring, *rates)
    out.print(table)


def as_agreements(rows: "Mapping[int, Sequence[Agreement]]") -> dict[str, list[dict[str, Any]]]:
    """Videos left out -> agreements."""
    return {str(dropped): [*map(asdict, own)] for dropped, own in rows.items()}


def shares(twins: Mapping[str, pl.DataFrame]) -> dict[str, float]:
    """How much was shown, its share whose reaction was read from a log, and lists that the machine disturbed."""
    names = ("shown", "real", "disturbed")
    shown, real, disturbed = (sum(float(twin[name].sum()) for twin in twins.values()) for name in names)
    return {"shown": shown, "real_share": round(real / shown, 5), "disturbed": disturbed}


def met_pairs(twins: Mapping[str, pl.DataFrame]) -> dict[str, dict[str, float]]:
    """Arm -> pairs of the log that it showed, and their rate of plays: modelled and observed."""
    sums = {arm: twin.sum() for arm, twin in twins.items() if "real_plays" in twin.columns}
    return {
        arm: {
            "pairs": row["real"].item(),
            "modelled": row["real_modelled"].item() / row["real"].item(),
            "observed": row["real_plays"].item() / row["real"].item(),
        }
        for arm, row in sums.items()
        if row["real"].item() > 0
    }


def facts_of(study: "Study", options: ReplayCommand) -> dict[str, Any]:
    from recall.replay.study import digest_of_bundle
    from recall.reproduction.facts import machine, versions

    bundles = {arm: digest_of_bundle(path) for arm, path in study.arms.items()}
    sizes = {"users": len(study.audience.users), "sessions": options.sessions, "top_n": options.top_n}
    place = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine("cpu")} | versions()
    return {"audience": options.audience, "seed": options.seed, "bundles": bundles} | sizes | place


def as_row(
    lifts: "Mapping[int, Sequence[TwinLift]]", trial: "TrialRun", tallies: "Mapping[str, Tally]"
) -> dict[str, Any]:
    return {
        "twins": {str(dropped): [asdict(row) for row in rows] for dropped, rows in lifts.items()},
        "trial": {"users": trial.users, "differing": trial.differing, "verdict": trial.verdict.as_json()},
        "salts": {name: tally.rates() for name, tally in tallies.items()},
    }
