"""Credits of an interleaving: what each user did with the items of each team.

An action is credited to the team from which its list took the item: the list of the action's request, or without a
request the newest one before it that showed the item to the user. An action on an item that no list showed, or none of
this experiment, is credited to nobody.
"""

from dataclasses import dataclass

import polars as pl

from service.consumer.users import ACTIONS, ExperimentLog
from service.errors import BadStatistics

METRICS = ("plays", "watch_time_s", "watch_time_log", *(name for name in ACTIONS if name != "plays"))
BEGUN, BETWEEN = "begun", ":"  # between metric and variation in the name of a column


@dataclass(frozen=True)
class CreditLog:
    """The events of an interleaving, with the actions that a list explains and the team of each."""

    log: ExperimentLog
    teams: tuple[str, ...]  # the keys of the two variations, the control's first
    credited: pl.DataFrame

    @property
    def in_both(self) -> float:
        """The mean share of a list that both arms would have shown: their lists are as long as the one of them."""
        filled = self.log.interleaved.filter(pl.col("items").list.len() > 0)
        return float(filled.select((pl.col("in_both") / pl.col("items").list.len()).mean()).item() or 0.0)

    def users_until(self, ts_ms: int | None = None) -> pl.DataFrame:
        """One row a user exposed by then, None = to the end: user_id, variation, METRIC:TEAM for each of both.

        BEGUN counts the lists that begin with an item of the team, of those that have items of both.
        """
        rows = self.log.users_until(ts_ms).frame.select("user_id", "variation")
        # a list with items of one team alone prefers nobody by how it begins
        lists, credited = self.log.interleaved.filter(pl.col("picks").list.n_unique() == 2), self.credited
        if ts_ms is not None:
            lists, credited = (table.filter(pl.col("ts_ms") <= ts_ms) for table in (lists, credited))
        begins = lists.with_columns(pl.col("picks").list.first().alias("team"))
        for table, metrics in ((begins, (BEGUN,)), (credited, METRICS)):
            columns = [(name, number, team) for name in metrics for number, team in enumerate(self.teams)]
            sums = table.group_by("unit").agg(sum_of(*column) for column in columns)
            rows = rows.join(sums, left_on="user_id", right_on="unit", how="left", maintain_order="left")
        return rows.fill_null(0)


def read_credits(log: ExperimentLog) -> CreditLog:
    """Raises BadStatistics where no list was interleaved."""
    if not log.interleaved.height:
        raise BadStatistics(f"the log has no interleaved list of the experiment {log.experiment!r}")
    return CreditLog(log, tuple(log.interleaved["teams"][0]), _with_teams(log.actions, log.interleaved))


def sum_of(metric: str, number: int, team: str) -> pl.Expr:
    is_own = pl.col("team") == number
    if metric.startswith("watch_time"):
        seconds = pl.col("watch_time_ms").fill_null(0).filter(is_own) / 1e3
        value = (seconds.log1p() if metric == "watch_time_log" else seconds).sum()
    elif metric == BEGUN:
        value = is_own.sum()
    else:
        value = (is_own & (pl.col("action") == ACTIONS[metric])).sum()
    return value.cast(pl.Float64).alias(f"{metric}{BETWEEN}{team}")


def _with_teams(actions: pl.DataFrame, lists: pl.DataFrame) -> pl.DataFrame:
    """The actions that a list explains, with the team of their item."""
    named = actions.filter(pl.col("request_id").is_not_null())
    unnamed = actions.filter(pl.col("request_id").is_null())
    own = _items_of(lists.join(named.select("request_id").unique(), on="request_id", how="semi"))
    # the request of another user explains nothing
    by_request = named.join(own.drop("ts_ms"), on=["request_id", "unit", "item"])
    earlier = _items_of(lists.join(unnamed.select("unit").unique(), on="unit", how="semi")).drop("request_id")
    # the newest list before the action: what was shown after it cannot have led to it
    by_time = unnamed.sort("ts_ms").join_asof(
        earlier.sort("ts_ms"), on="ts_ms", by=["unit", "item"], strategy="backward", check_sortedness=False
    )
    return pl.concat([by_request, by_time.filter(pl.col("team").is_not_null())], how="diagonal")


def _items_of(lists: pl.DataFrame) -> pl.DataFrame:
    """One row an item shown."""
    columns = lists.select("request_id", "unit", "ts_ms", pl.col("items").alias("item"), pl.col("picks").alias("team"))
    return columns.explode("item", "team")
