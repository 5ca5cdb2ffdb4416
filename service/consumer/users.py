"""The event log as one row a user: what `recall experiment judge` reads.

A user counts in the variation of the first exposure, with all feedback from then on and with 0 where there was none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from model.logs.feedback import FEEDBACK, FEEDBACK_KEY, read_table, without_testers
from service.errors import BadStatistics

ACTIONS = {
    "plays": "play",
    "likes": "like",
    "follows": "follow",
    "shares": "share",
    "comments": "comment",
    "hides": "hide",
}


@dataclass(frozen=True)
class ExposedUsers:
    """One row a user, and those who are left out of it."""

    # user_id, variation, ACTIONS, watch_time_s; days with a request, and of these: errors and fallbacks
    frame: pl.DataFrame
    phase: str
    num_testers: int
    num_moved: int  # met more than one variation of the phase; they count where they began


def read_users(folder: Path, experiment: str, phase: str | None = None) -> ExposedUsers:
    """The users of an experiment's phase, the last one by default.

    Raises BadStatistics where nobody was exposed, and DataError for files that are no event log.
    """
    exposures = read_table(folder, "exposures", ("id",))
    if exposures is not None:
        exposures = exposures.filter(pl.col("experiment") == experiment)
    if exposures is None or not exposures.height:
        raise BadStatistics(f"{folder} has no exposure of the experiment {experiment!r}")
    phase = str(exposures["phase"][-1]) if phase is None else phase
    exposures = exposures.filter(pl.col("phase") == phase)
    counted = without_testers(exposures, folder, user="unit")
    users = counted.group_by("unit", maintain_order=True).agg(
        pl.col("variation").first(),
        pl.col("variation").n_unique().alias("variations"),
        pl.col("ts_ms").min().alias("since_ms"),
        pl.len().alias("requests"),
        pl.col("served").str.contains(r"^\d").sum().alias("errors"),
        (pl.col("served") == "fallback").sum().alias("fallbacks"),
    )
    num_moved = users.filter(pl.col("variations") > 1).height
    rows = users.join(_actions(folder, users), on="unit", how="left", maintain_order="left").fill_null(0)
    frame = rows.drop("variations", "since_ms").rename({"unit": "user_id"})
    return ExposedUsers(frame, phase, exposures["unit"].n_unique() - users.height, num_moved)


def _actions(folder: Path, users: pl.DataFrame) -> pl.DataFrame:
    """The sums of each user's feedback from the first exposure on."""
    feedback = read_table(folder, FEEDBACK, FEEDBACK_KEY)
    sums: Sequence[pl.Expr] = [
        *((pl.col("action") == action).sum().alias(name) for name, action in ACTIONS.items()),
        (pl.col("watch_time_ms").sum() / 1e3).alias("watch_time_s"),
    ]
    if feedback is None:
        return users.select("unit", *(pl.lit(0).alias(name) for name in (*ACTIONS, "watch_time_s")))
    # a request that a tester forced counts for nobody, whoever sends feedback on it
    counted = without_testers(feedback, folder).join(users, left_on="user", right_on="unit")
    since = counted.filter(pl.col("ts_ms") >= pl.col("since_ms"))
    return since.group_by("user").agg(sums).rename({"user": "unit"})
