"""KuaiRand-Pure's tables as features of a user and a video: what a model of reactions is fitted on.

Features of users are of the time before the replay (up to 24 April), those of videos are the app's own counts over all
of its users. Nothing is learnt of which videos are watched by the same people: that is what the arms compete in.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.logs.events import DataError
from recall.replay.audiences.audience import Ids, Numbers
from recall.replay.audiences.logistic import logit

PRIOR_VIEWS, PRIOR_TASTE = 5.0, 3.0  # views that a mean counts as, beside a user's own
PRIOR_SHOWS = 200.0  # the same of a video
COLUMNS = ("video_id", "tag", "counts", "video_duration", "show_cnt", "play_cnt", "long_time_play_cnt")
COUNTS = {"likes": "like_cnt", "comments": "comment_cnt", "follows": "follow_cnt", "shares": "share_cnt"}
LOGGED = {"likes": "is_like", "comments": "is_comment", "follows": "is_follow", "shares": "is_forward"}
SHOWN = ("user_id", "video_id", "time_ms", "long_view", "play_time_ms", *LOGGED.values())


def read(folder: Path, stem: str, columns: tuple[str, ...]) -> pl.DataFrame:
    """Raises DataError when the file or a column is missing."""
    path = folder / f"{stem}.parquet"
    try:
        return pl.read_parquet(path, columns=list(columns))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read with the columns {', '.join(columns)}: {error}") from error


def shrunk(part: Numbers, whole: Numbers, prior: float) -> Numbers:
    """part / whole, drawn to the rate of all by so many of them."""
    rate = part.sum() / whole.sum()
    values: Numbers = (part + prior * rate) / (whole + prior)
    return values


@dataclass(frozen=True)
class Tables:
    """Users and videos by row, each in the order of its ids."""

    user_ids: Ids  # (U,) sorted
    item_ids: Ids  # (M,) sorted
    sequences: pl.DataFrame  # (U rows) watch_seq, long_watch_seq, like_seq
    videos: pl.DataFrame  # (M rows)

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        names = ("user_id", "watch_seq", "long_watch_seq", "like_seq")
        sequences = read(folder, "user_sequences", names).sort("user_id")
        videos = read(folder, "item_features", (*COLUMNS, *COUNTS.values())).sort("video_id")
        return cls(sequences["user_id"].to_numpy(), videos["video_id"].to_numpy(), sequences, videos)

    def user_rows(self, users: Ids) -> Ids:
        return np.searchsorted(self.user_ids, users)

    def item_rows(self, items: Ids) -> Ids:
        return np.searchsorted(self.item_ids, items)

    def view_features(self, users: Ids, items: Ids) -> Numbers:
        """(K, 4) of pairs, for the chance of a long view: user, video, the user's taste for its tag, its length."""
        rows, columns = self.user_rows(users), self.item_rows(items)
        taste = self._tastes[rows, self._tags[columns]]
        return np.column_stack([self._openness[rows], self._appeal[columns], taste, self._lengths[columns]])

    def action_features(self, metric: str, users: Ids, items: Ids) -> Numbers:
        """(K, 3) of pairs, for the chance of an action on a long view: video, user, length."""
        rows, columns = self.user_rows(users), self.item_rows(items)
        return np.column_stack([self._action_rates[metric][columns], self._warmth[rows], self._lengths[columns]])

    def durations(self, items: Ids) -> Numbers:
        """(K,) milliseconds."""
        return np.exp(self._lengths[self.item_rows(items)])

    @cached_property
    def _lengths(self) -> Numbers:
        known = self.videos["video_duration"].cast(pl.Float64)
        return known.fill_null(known.median()).clip(1_000.0).log().to_numpy()

    @cached_property
    def _appeal(self) -> Numbers:
        """(M,) log odds of a long view, of everybody who was shown the video. The file has means a day."""
        days = self.videos["counts"]
        long, shown = ((days * self.videos[name]).to_numpy() for name in ("long_time_play_cnt", "show_cnt"))
        return logit(shrunk(long, shown, PRIOR_SHOWS))

    @cached_property
    def _action_rates(self) -> dict[str, Numbers]:
        days, plays = self.videos["counts"], (self.videos["counts"] * self.videos["play_cnt"]).to_numpy()
        return {
            metric: logit(shrunk((days * self.videos[name]).to_numpy(), plays, PRIOR_SHOWS))
            for metric, name in COUNTS.items()
        }

    @cached_property
    def _openness(self) -> Numbers:
        """(U,) log odds that a video shown to the user was watched long."""
        return logit(shrunk(self._long.sum(1), self._watched.sum(1), PRIOR_VIEWS).clip(0.01, 0.99))

    @cached_property
    def _warmth(self) -> Numbers:
        """(U,) log odds that a long view of the user got a like."""
        names = ("like_seq", "long_watch_seq")
        likes, long = (self.sequences[name].list.len().cast(pl.Float64).to_numpy() for name in names)
        return logit(shrunk(likes, long, PRIOR_VIEWS).clip(1e-4, 0.9))

    @cached_property
    def _tags(self) -> NDArray[np.int64]:
        """(M,) the first tag of each video, numbered; videos without one share a number."""
        first = self.videos["tag"].fill_null("").str.split(",").list.first()
        return (first.rank("dense") - 1).cast(pl.Int64).to_numpy()

    @cached_property
    def _tastes(self) -> Numbers:
        """(U, T) log odds of a long view of the tag's videos above the user's own, shrunk to none."""
        own = 1 / (1 + np.exp(-self._openness))[:, None]
        rates = (self._long + PRIOR_TASTE * own) / (self._watched + PRIOR_TASTE)
        return logit(rates.clip(0.01, 0.99)) - self._openness[:, None]

    @cached_property
    def _watched(self) -> Numbers:
        """(U, T) how often each tag stands among the newest fifty videos that were shown."""
        return self._by_tag(self._shown)

    @cached_property
    def _long(self) -> Numbers:
        """(U, T) the same of those that were watched long; the file's own list of them reaches further back."""
        long = self.sequences.select(pl.col("user_id").alias("user"), pl.col("long_watch_seq").alias("item"))
        return self._by_tag(self._shown.join(long.explode("item").drop_nulls().unique(), on=["user", "item"]))

    @cached_property
    def _shown(self) -> pl.DataFrame:
        shown = self.sequences.select(pl.col("user_id").alias("user"), pl.col("watch_seq").alias("item"))
        return shown.explode("item").drop_nulls()

    def _by_tag(self, pairs: pl.DataFrame) -> Numbers:
        counts = np.zeros((len(self.user_ids), int(self._tags.max()) + 1))
        rows, columns = self.user_rows(pairs["user"].to_numpy()), self.item_rows(pairs["item"].to_numpy())
        np.add.at(counts, (rows, self._tags[columns]), 1.0)
        return counts
