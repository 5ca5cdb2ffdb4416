"""The event log as one row a user: what `recall experiment judge` and `recall experiment report` read.

A user counts in the variation of the first exposure, with all feedback from then on and with 0 where there was none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import polars as pl

from model.logs.feedback import FEEDBACK, FEEDBACK_KEY, read_table, without_testers
from service.consumer.tables import INTERLEAVED_COLUMNS, SHOWN_COLUMNS
from service.errors import BadStatistics

ACTIONS = {
    "plays": "play",
    "likes": "like",
    "follows": "follow",
    "shares": "share",
    "comments": "comment",
    "hides": "hide",
}
SESSION_PREFIX = "session_id||"  # of a unit that is a session (service/experiments/conditions.py)
INTERLEAVED = "interleaved"  # the variation of everybody in an interleaving (service/experiments/rules.py)
BEFORE = "_before"  # ends the name of a metric's covariate
Span = tuple[int | None, int | None]  # after the first time, until the second; None = no bound
# sums of a user; answers are those of which the list was sampled
ANSWERS = ("answers", "latencies_ms", "empties", "shorts")
RATES = {
    "latency_ms": ("latencies_ms", "answers"),
    "error_rate": ("errors", "requests"),
    "fallback_rate": ("fallbacks", "requests"),
    "empty_rate": ("empties", "answers"),
    "short_rate": ("shorts", "answers"),
}


@dataclass(frozen=True)
class ExposedUsers:
    """One row a user, and those who are left out of it."""

    # user_id, variation, ACTIONS, watch_time_s; days with a request, and of these: errors and fallbacks; ANSWERS
    frame: pl.DataFrame
    phase: str
    num_testers: int
    num_moved: int  # met more than one variation of the phase; they count where they began


@dataclass(frozen=True)
class ExperimentLog:
    """The events of an experiment's phase, without testers; times are milliseconds since 1970."""

    experiment: str
    phase: str
    exposures: pl.DataFrame
    shown: pl.DataFrame
    actions: pl.DataFrame  # feedback of exposed users from the first exposure on
    interleaved: pl.DataFrame  # lists of two teams; none in an experiment that splits its users
    before: pl.DataFrame  # one row a unit: what it did before it met any phase of the experiment, METRIC_before
    num_testers: int

    @property
    def is_interleaving(self) -> bool:
        return bool((self.exposures["variation"] == INTERLEAVED).any())

    @property
    def last_ms(self) -> int:
        """The newest event's time."""
        tables = (self.exposures, self.shown, self.actions)
        return max(int(table["ts_ms"].max()) for table in tables if table.height)  # type: ignore[arg-type]

    def users_until(self, ts_ms: int | None = None) -> ExposedUsers:
        """One row for each user who was exposed by then, with what they did by then; None = to the end."""
        frame = self._exposed(self._sums((None, ts_ms)))
        exposures = _within(self.exposures, (None, ts_ms))
        met = exposures.group_by("unit").agg(pl.col("variation").n_unique().alias("variations"))
        return ExposedUsers(frame, self.phase, self.num_testers, met.filter(pl.col("variations") > 1).height)

    def users_at(self, moments: Sequence[int]) -> Iterator[pl.DataFrame]:
        """The same rows at each of these moments, which grow; each event is looked at once."""
        total = None
        for span in pairwise([None, *moments]):
            sums = self._sums(span)
            total = sums if total is None else _added(pl.concat([total, sums], how="vertical_relaxed"))
            yield self._exposed(total)

    def _exposed(self, sums: pl.DataFrame) -> pl.DataFrame:
        """Leaves out whoever was not exposed: a list whose exposure was lost makes nobody a user of the experiment."""
        users = sums.filter(pl.col("variation").is_not_null()).rename({"unit": "user_id"})
        known = users.join(self.before, left_on="user_id", right_on="unit", how="left", maintain_order="left")
        return known.with_columns(pl.col(f"^.*{BEFORE}$").fill_null(0))

    def _sums(self, span: Span) -> pl.DataFrame:
        """The sums of each user within a span of time; without a variation where no exposure is in it."""
        exposed = (
            _within(self.exposures, span)
            .group_by("unit", maintain_order=True)
            .agg(
                pl.col("variation").first(),
                pl.len().alias("requests"),
                pl.col("served").str.contains(r"^\d").sum().alias("errors"),
                (pl.col("served") == "fallback").sum().alias("fallbacks"),
            )
        )
        others = (_sum_actions(_within(self.actions, span)), _sum_answers(_within(self.shown, span)))
        return _added(pl.concat([exposed, *others], how="diagonal_relaxed"))


def _added(sums: pl.DataFrame) -> pl.DataFrame:
    """One row a user, in the order of the rows."""
    numbers = pl.exclude("unit", "variation").sum()
    return sums.group_by("unit", maintain_order=True).agg(pl.col("variation").drop_nulls().first(), numbers)


def read_users(folder: Path, experiment: str, phase: str | None = None) -> ExposedUsers:
    """The users of an experiment's phase, the last one by default. Raises what `read_experiment` raises."""
    return read_experiment(folder, experiment, phase).users_until()


def read_experiment(folder: Path, experiment: str, phase: str | None = None) -> ExperimentLog:
    """The events of an experiment's phase, the last one by default.

    Raises BadStatistics where nobody was exposed, and DataError for files that are no event log.
    """
    exposures = _read_exposures(folder, experiment)
    phase = str(exposures["phase"][-1]) if phase is None else phase
    # a phase before may have had the same arms: what was done under them is no pre-period
    met = exposures.group_by("unit").agg(pl.col("ts_ms").min().alias("met_ms"))
    if phase not in (phases := exposures["phase"].unique().sort().to_list()):
        known = ", ".join(map(repr, phases))
        raise BadStatistics(
            f"{folder} has no exposure of phase {phase!r} of the experiment {experiment!r}; its phases are {known}"
        )
    exposures = exposures.filter(pl.col("phase") == phase)
    counted = without_testers(exposures, folder, user="unit")
    num_testers = exposures["unit"].n_unique() - counted["unit"].n_unique()
    lists = [
        _read_lists(folder, name, columns, (experiment, phase))
        for name, columns in (("shown", SHOWN_COLUMNS), ("interleaved", INTERLEAVED_COLUMNS))
    ]
    actions, before = _read_actions(folder, counted, met)
    return ExperimentLog(experiment, phase, counted, lists[0], actions, lists[1], before, num_testers)


def _read_exposures(folder: Path, experiment: str) -> pl.DataFrame:
    """The exposures of an experiment. Raises BadStatistics where there is none, with what there is instead."""
    exposures = read_table(folder, "exposures", ("id",))
    if exposures is None:
        if not folder.is_dir():
            raise BadStatistics(f"there is no folder {folder}")
        raise BadStatistics(f"{folder} holds no exposures: nobody has been exposed yet, or it is no event log")
    own = exposures.filter(pl.col("experiment") == experiment)
    if not own.height:
        known = ", ".join(exposures["experiment"].unique().sort())
        raise BadStatistics(f"{folder} has no exposure of the experiment {experiment!r}; it has those of {known}")
    return own


def _within(table: pl.DataFrame, span: Span) -> pl.DataFrame:
    after, until = span
    if after is not None:
        table = table.filter(pl.col("ts_ms") > after)
    return table if until is None else table.filter(pl.col("ts_ms") <= until)


def _read_lists(folder: Path, name: str, columns: dict[str, pl.DataType], of: tuple[str, str]) -> pl.DataFrame:
    """A table of lists of an experiment and its phase; files of an older service lack columns."""
    empty = pl.DataFrame(schema={"stream_id": pl.String(), **columns})
    lists = read_table(folder, name, ("request_id",))
    if lists is None:
        return empty
    ours = lists.filter((pl.col("experiment") == of[0]) & (pl.col("phase") == of[1]))
    return without_testers(pl.concat([empty, ours], how="diagonal"), folder, user="unit")


def _read_actions(folder: Path, exposures: pl.DataFrame, met: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The feedback of each exposed user from the first exposure on, and the sums of what was before `met`."""
    columns: dict[str, pl.DataType] = {"unit": pl.String(), "item": pl.String(), "request_id": pl.String()}
    columns |= {"action": pl.String(), "ts_ms": pl.Int64(), "watch_time_ms": pl.Int64()}
    feedback = read_table(folder, FEEDBACK, FEEDBACK_KEY)
    if feedback is None:
        return pl.DataFrame(schema=columns), pl.DataFrame(schema={"unit": pl.String()})
    since = exposures.group_by("unit").agg(pl.col("ts_ms").min().alias("since_ms")).join(met, on="unit")
    # a request that a tester forced counts for nobody, whoever sends feedback on it
    counted = _by_unit(without_testers(feedback, folder), exposures).join(since, on="unit")
    earlier = _sum_actions(counted.filter(pl.col("ts_ms") < pl.col("met_ms")))
    done = [name for name in earlier.columns if name != "unit" and earlier[name].sum() > 0]
    before = earlier.select("unit", *(pl.col(name).alias(name + BEFORE) for name in done))
    return counted.filter(pl.col("ts_ms") >= pl.col("since_ms")).select(*columns), before


def _by_unit(feedback: pl.DataFrame, exposures: pl.DataFrame) -> pl.DataFrame:
    """The feedback with the unit of each action: who did it, or in an experiment of sessions alone the session.

    Where a session stands in for those without a user, an action of a user counts for the user alone.
    """
    is_of_sessions = bool(exposures["unit"].str.starts_with(SESSION_PREFIX).all())
    if not is_of_sessions or "session" not in feedback.columns:
        return feedback.rename({"user": "unit"})
    session = pl.concat_str(pl.lit(SESSION_PREFIX), pl.col("session"))
    return feedback.with_columns(pl.coalesce(session, pl.col("user")).alias("unit"))


def _sum_actions(actions: pl.DataFrame) -> pl.DataFrame:
    sums: Sequence[pl.Expr] = [
        *((pl.col("action") == action).sum().alias(name) for name, action in ACTIONS.items()),
        (pl.col("watch_time_ms").sum() / 1e3).alias("watch_time_s"),
    ]
    return actions.group_by("unit").agg(sums)


def _sum_answers(shown: pl.DataFrame) -> pl.DataFrame:
    """ANSWERS of each user, over the lists that tell them."""
    length = pl.col("items").list.len()
    return (
        shown.filter(pl.col("asked").is_not_null())
        .group_by("unit")
        .agg(
            pl.len().alias("answers"),
            pl.col("took_ms").sum().alias("latencies_ms"),
            (length == 0).sum().alias("empties"),
            (length < pl.col("asked")).sum().alias("shorts"),
        )
    )
