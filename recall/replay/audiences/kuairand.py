"""KuaiRand-Pure's users: reactions read from the log where the app showed the pair, and modelled elsewhere.

The arms are trained on long watches up to 24 April 2022. What people did from 25 April on is the truth of the replay:
one pair in some thousand, so nearly all reactions are drawn from a model, and every table that is made of them says so.
The model: the chance of a long view from the user's and the video's own rates, the user's taste for its tag and its
length; the chance of each action on a long view likewise. Fitted on 25-30 April, checked on 1-8 May.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recall.replay.audiences.audience import PLAYS, VIEWED, WATCHED, Ids, Numbers, Past, Reactions
from recall.replay.audiences.draws import uniform
from recall.replay.audiences.logistic import Logistic, calibration, fit
from recall.replay.audiences.tables import LOGGED, SHOWN, Tables, read

DECILES = 10
PARTS = ("val", "test")  # of the exposure files: 25-30 April, 1-8 May
Models = Mapping[str, Logistic]


class LogAudience:
    """The users whom the log knows before and after the day on which the replay begins."""

    name = "kuairand"

    def __init__(self, folder: Path, seed: int, num_users: int | None = None) -> None:
        self._seed, self._tables = seed, Tables.load(folder)
        self._fitted, self._checked = (self._first_of_pairs(read(folder, f"exposures_{part}", SHOWN)) for part in PARTS)
        self._log = self._first_of_pairs(pl.concat([self._fitted, self._checked]))
        users = np.intersect1d(self._log["user_id"].unique().to_numpy(), self._tables.user_ids)
        self.users: Ids = np.random.default_rng([seed, 1]).permutation(users)[:num_users]
        self._models = self._fit(self._fitted)

    def metrics(self) -> Sequence[str]:
        return (PLAYS, WATCHED, *LOGGED, VIEWED)

    def rules(self, dropped: int) -> Mapping[str, Any]:
        """Nothing: the whole catalogue is listed. Raises ValueError for popular videos to leave out."""
        if dropped:
            raise ValueError(
                "--dropped: only KuaiRec's videos have a rank by popularity to leave the first of them out"
            )
        return {}

    def past(self, user: int) -> Past:
        """The long watches of the log; how many they are is known before the replay."""
        row = int(self._tables.user_rows(np.array([user]))[0])
        plays = self._histories[row]
        return Past(plays, (), float(len(plays)))

    def react(self, users: Ids, items: Ids) -> Reactions:
        chances = self._models[PLAYS].chances(self._tables.view_features(users, items))
        real = self._real_rows(users, items)
        is_real = real >= 0
        plays = np.where(is_real, self._logged[PLAYS][real] > 0, uniform(self._seed, 0, users, items) < chances)
        modelled, chances = chances, np.where(is_real, self._logged[PLAYS][real], chances)
        durations = self._tables.durations(items)
        expected, actions = {PLAYS: chances}, {}
        for purpose, metric in enumerate(LOGGED, 1):
            given = self._models[metric].chances(self._tables.action_features(metric, users, items))
            logged = self._logged[metric][real]
            drawn = np.where(is_real, logged > 0, uniform(self._seed, purpose, users, items) < given)
            actions[metric] = drawn & plays
            # a chance where both are modelled; what happened, where it is known
            expected[metric] = np.where(is_real, logged, chances * given)
        times = np.where(plays, self._times(True, durations), self._times(False, durations))
        view_ms = np.where(is_real, self._logged["play_time_ms"][real], times)
        return Reactions(plays, view_ms, durations, actions, expected, is_real, modelled)

    def calibrations(self) -> Mapping[str, Sequence[tuple[float, float]]]:
        """Rates in the days that the model was not fitted on."""
        users, items, views = self._parts(self._checked)
        by_metric = {PLAYS: calibration(self._models[PLAYS].chances(self._tables.view_features(users, items)), views)}
        long = views > 0
        for metric, column in LOGGED.items():
            features = self._tables.action_features(metric, users[long], items[long])
            by_metric[metric] = calibration(
                self._models[metric].chances(features), self._number(self._checked, column)[long]
            )
        return by_metric

    def _fit(self, shown: pl.DataFrame) -> Models:
        users, items, views = self._parts(shown)
        long = views > 0
        models = {PLAYS: fit(self._tables.view_features(users, items), views)}
        for metric, column in LOGGED.items():
            features = self._tables.action_features(metric, users[long], items[long])
            models[metric] = fit(features, self._number(shown, column)[long])
        return models

    def _first_of_pairs(self, shown: pl.DataFrame) -> pl.DataFrame:
        """Each pair once, as it was shown first, of users who have a history."""
        known = shown.filter(pl.col("user_id").is_in(self._tables.user_ids.tolist()))
        return known.sort("time_ms", maintain_order=True).unique(
            ["user_id", "video_id"], keep="first", maintain_order=True
        )

    def _parts(self, shown: pl.DataFrame) -> tuple[Ids, Ids, Numbers]:
        views = self._number(shown, "long_view")
        return shown["user_id"].to_numpy(), shown["video_id"].to_numpy(), views

    @staticmethod
    def _number(shown: pl.DataFrame, column: str) -> Numbers:
        return shown[column].fill_null(0).cast(pl.Float64).to_numpy()

    @cached_property
    def _keys(self) -> tuple[Ids, Ids]:
        """Pairs of the log as sorted numbers, and the row of each."""
        keys = self._pair_keys(self._log["user_id"].to_numpy(), self._log["video_id"].to_numpy())
        order = np.argsort(keys)
        return keys[order], order

    def _pair_keys(self, users: Ids, items: Ids) -> Ids:
        return users * (int(self._tables.item_ids[-1]) + 1) + items

    def _real_rows(self, users: Ids, items: Ids) -> Ids:
        """(K,) row of the log in which the pair stands, -1 = in none."""
        keys, rows = self._keys
        wanted = self._pair_keys(users, items)
        places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[places] == wanted, rows[places], -1)

    @cached_property
    def _logged(self) -> dict[str, Numbers]:
        """Columns of the log by metric; actions count on long views alone, as in the model."""
        views = self._number(self._log, "long_view")
        by_metric = {metric: self._number(self._log, column) * views for metric, column in LOGGED.items()}
        return {**by_metric, PLAYS: views, "play_time_ms": self._number(self._log, "play_time_ms").clip(0)}

    @cached_property
    def _histories(self) -> list[list[int]]:
        histories: list[list[int]] = self._tables.sequences["long_watch_seq"].fill_null([]).to_list()
        return histories

    def _times(self, is_play: bool, durations: Numbers) -> Numbers:
        """(K,) milliseconds watched: the mean of such views of videos of that length."""
        limits, means = self._time_table[is_play]
        return means[np.searchsorted(limits, durations)]

    @cached_property
    def _time_table(self) -> dict[bool, tuple[Numbers, Numbers]]:
        """The nine limits between tenths by length, and the mean time of each tenth, for plays and for other views."""
        tables = {}
        for is_play in (True, False):
            rows = self._fitted.filter(pl.col("long_view") == int(is_play))
            lengths = self._tables.durations(rows["video_id"].to_numpy())
            limits = np.quantile(lengths, np.arange(1, DECILES) / DECILES)
            tenth, times = np.searchsorted(limits, lengths), self._number(rows, "play_time_ms")
            sums, counts = (np.bincount(tenth, weights, DECILES) for weights in (times, np.ones_like(times)))
            tables[is_play] = limits, sums / np.maximum(counts, 1)
        return tables
