"""recall experiment guard: looks at the guard rails again and again, and stops an experiment that breaches one.

It reads the event log and writes the experiments' file, which a running service follows within seconds; where they are
those of a GrowthBook server, what is paused stands beside the kept payload. The intervals hold at all looks together,
so looking often costs nothing.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.folders.files import write_file
from recall.experiments.events import FOLDER
from recall.experiments.verdict import read_guardrails
from recall.options import takes
from recall.terminal import last_line, out
from service.settings import KEPT_EXPERIMENTS, PAUSED_EXPERIMENTS

if TYPE_CHECKING:
    from service.experiments.verdict.judge import Verdict

Option = typer.Option
FEATURE = "recall_arm"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardCommand:
    """The options of `recall experiment guard`."""

    key: Annotated[str, typer.Argument(help="Key of the experiment.")]
    experiments: Annotated[
        Path | None, Option(help="The experiments' file: planned shares are read, a stop is written.")
    ] = None
    state_dir: Annotated[
        Path | None,
        Option(
            help="In place of the file: the state folder of a service with --experiments-url. Shares are those of the "
            "payload kept there; a stop is kept there too, and obeyed whatever the server says."
        ),
    ] = None
    log: Annotated[Path, Option(help="Folder of the event log.")] = FOLDER
    guardrail: Annotated[
        list[str] | None, Option(help="METRIC=.01 (absolute) or METRIC=10% (relative): the rise allowed; repeatable.")
    ] = None
    alpha: Annotated[float, Option(help="False alarms over all looks together, two-sided.")] = 0.05
    interval_s: Annotated[float, Option(min=1, help="Look this often; the log itself grows each half minute.")] = 60
    once: Annotated[bool, Option("--once", help="Look once, and stop.")] = False


@takes(GuardCommand)
def guard_experiment(options: GuardCommand) -> None:
    """Stop an experiment when a treatment breaches a guard rail: `"active": false` in the experiments' file.

    Runs until that, or until it is stopped. The last line is JSON: the treatments that breached one.
    """
    file = planned_file(options)
    # refused now, and not at the first exposure
    read_guardrails(options.guardrail, ())
    while True:
        verdict, phase = look(options, file)
        if verdict is not None and verdict.pause:
            where = stop_experiment(options, phase)
            out.print(f"{options.key} is stopped in {where}: {', '.join(verdict.pause)} breached a guard rail")
            last_line({"experiment": options.key, "paused": list(verdict.pause)})
            return
        if options.once:
            last_line({"experiment": options.key, "paused": []})
            return
        time.sleep(options.interval_s)


def planned_file(options: GuardCommand) -> Path:
    """The file that says the shares. Raises ValueError for neither or both sources, or a folder without a payload."""
    if options.experiments is not None and options.state_dir is None:
        return options.experiments
    if options.state_dir is None or options.experiments is not None:
        raise ValueError(
            "name either the experiments' file (--experiments) or the state folder of a service that asks a GrowthBook "
            "server (--state-dir)"
        )
    kept = options.state_dir / KEPT_EXPERIMENTS
    if not kept.exists():
        raise ValueError(
            f"{kept} is not there: the service of this folder has not had a payload of --experiments-url; where it has "
            "a file, name that with --experiments"
        )
    return kept


def look(options: GuardCommand, file: Path) -> tuple["Verdict | None", str]:
    """The verdict now, with a line for each guard rail, and its phase; None while nobody is exposed yet."""
    from service.consumer.users import read_experiment
    from service.errors import BadStatistics
    from service.experiments.report.build import METRICS, judge_users
    from service.experiments.report.planned import read_shares
    from service.experiments.verdict.judge import AnalysisPlan

    try:
        # read whole each time: between two looks the consumer has written on
        log = read_experiment(options.log, options.key)
    except BadStatistics as error:
        if options.once:
            raise
        out.print(str(error))
        return None, ""
    if log.is_interleaving:
        raise ValueError(f"{options.key} is an interleaving, which has no guard rails: each user gets both arms' items")
    shares = read_shares(file, options.key, log.phase)
    plan = AnalysisPlan(
        weights=shares,
        control=next(iter(shares)),
        primary=METRICS[0].metric,  # a plan needs one; guard rails do not look at it
        guardrails=read_guardrails(options.guardrail, ()),
        alpha=options.alpha,
    )
    # all users so far: the always-valid interval holds at every look, whenever it is taken
    verdict = judge_users(log.users_until().frame, METRICS[:1], plan)
    for rail in verdict.guardrails:
        out.print(f"{rail.metric} of {rail.treatment}: {rail.state}")
    return verdict, log.phase


def stop_experiment(options: GuardCommand, phase: str) -> Path:
    """Stops the experiment where its service looks; the file in which that is written now."""
    from service.experiments.live import pause

    if options.experiments is not None:
        write_stop(options.experiments, options.key)
        return options.experiments
    paused = (options.state_dir or Path()) / PAUSED_EXPERIMENTS
    pause(paused, options.key, phase)
    return paused


def write_stop(path: Path, key: str) -> None:
    """Writes `"active": false` into the experiment's rule, in one step. `read_shares` has read the file before."""
    from service.experiments.layers import is_layer

    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    # features of other people are not looked at, whatever their rules are called
    features = [own for name, own in content["features"].items() if name == FEATURE or is_layer(name)]
    for rule in (rule for feature in features for rule in feature.get("rules") or []):
        if rule.get("key") == key:
            rule["active"] = False
    # only this key changes: what else the file says, also what the service does not know, stays as it was
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_file(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))
