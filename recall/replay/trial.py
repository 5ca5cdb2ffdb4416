"""The A/B run: everybody meets the arm that the running experiment gives, and the event log alone is judged.

Assignment, exposures, feedback, consumer and verdict are the project's own, each as a team would use it. Afterwards
the log is compared with what the simulator knows: that is the test of the platform, not of the arms.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from recall.replay.audiences.audience import PLAYS, VIEWED, Audience
from recall.replay.salts import CONTROL, KEY, experiment_of
from recall.replay.world import Script, live, open_world
from service.consumer.users import BEFORE, read_users
from service.experiments.verdict.judge import AnalysisPlan, Verdict, judge
from service.experiments.verdict.statistics import MetricColumns, from_users

TOLERANCE = 0.01  # seconds that watch time loses by being sent in whole milliseconds, a user


@dataclass(frozen=True, slots=True)
class TrialRun:
    """The verdict, and how the log compares with the twins."""

    verdict: Verdict
    users: int
    differing: int  # users whose sums in the log are not those of the twin with the same arm


def run_trial(
    arms: Mapping[str, Path], audience: Audience, script: Script, folder: Path, salt: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The simulator's rows and the log's rows, one a user each."""
    played = play_logged(arms, audience, script, folder, experiment_of(salt, *arms))
    return played, read_users(folder / "events", KEY).frame


def play_logged(
    arms: Mapping[str, Path], audience: Audience, script: Script, folder: Path, experiment: Mapping[str, Any]
) -> pl.DataFrame:
    """The simulator's rows of a world under an experiment, whose event log lies in `folder`/events afterwards."""
    with open_world(arms, folder, experiment) as place:
        played = live(place.url, audience, replace(script, arm=None))
        # a process of its own, as beside a service
        command = [sys.executable, "-m", "recall", "events", "consume", "--once"]
        command += ["--redis-url", place.redis_url, "--output", str(folder / "events")]
        # its last line is no line of ours
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  (our own)
    return played


def judge_trial(audience: Audience, logged: pl.DataFrame, treatment: str) -> Verdict:
    """The verdict at the planned end, by the rows of the log alone; its own pre-period is the covariate of plays."""
    before = PLAYS + BEFORE
    columns = [
        MetricColumns(metric=name, value=name, covariate=before if name == PLAYS and before in logged.columns else None)
        for name in in_log(audience.metrics())
    ]
    plan = AnalysisPlan(weights={CONTROL: 0.5, treatment: 0.5}, control=CONTROL, primary=PLAYS, final=True)
    return judge(from_users(logged, columns), plan)


def in_log(metrics: Sequence[str]) -> list[str]:
    """The metrics that an event log has: the time of views that were no plays is told to nobody."""
    return [name for name in metrics if name != VIEWED]


def differing(logged: pl.DataFrame, twins: Mapping[str, pl.DataFrame], metrics: Sequence[str]) -> int:
    """Users whose row of the log is missing, or is not the sums of their twin with the arm that they were given.

    twins: by variation.
    """
    count = 0
    for variation, twin in twins.items():
        known = twin.select(pl.col("user").cast(pl.String).alias("user_id"), *metrics)
        pairs = logged.filter(pl.col("variation") == variation).join(known, on="user_id", how="left", suffix="_twin")
        # a row without a twin has nulls here, which are no match; users without a row are counted below
        same = pl.all_horizontal((pl.col(name) - pl.col(f"{name}_twin")).abs() <= TOLERANCE for name in metrics)
        count += pairs.filter(~same.fill_null(value=False)).height
    everybody = next(iter(twins.values())).height
    return count + everybody - logged.height
