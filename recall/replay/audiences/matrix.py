"""KuaiRec's users: every preference is true, since everybody of the complete matrix saw each of its 3,327 videos.

A play is a positive of the matrix (watch ratio >= 2), the rule that the arms are trained by. How long is watched is
true for one pair in forty, and the mean of the video's known ratios, shrunk to that of all, for the others. The file
has no durations: time is counted in lengths of the video, of which each stands for ten seconds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.data.sequences import SequenceData
from model.logs.events import DataError
from recall.replay.audiences.audience import PLAYS, VIEWED, WATCHED, Ids, Numbers, Past, Reactions

LENGTH_MS = 10_000.0
PLAY_RATIO = 2.0  # of a positive, at least
MAX_RATIO = 20.0  # one known ratio in a thousand is above; the largest is 144
SHRINKAGE = 10  # known ratios that the mean of all counts as, beside a video's own
NUM_RANDOM = 50  # videos of the pre-period
RANK = "matrix_rank"


def rank_table(path: Path) -> pl.DataFrame:
    """The videos of the matrix with their rank by plays in the log, 1 = the most popular.

    As an attribute it lets a request ask for these videos alone, and for those that are not popular.
    """
    with open_arrays(path) as arrays:
        items, log = np.unique(arrays["small_items"]), np.concatenate([arrays["train"], arrays["valid"]])
    counts = np.bincount(np.searchsorted(items, log[:, 1][np.isin(log[:, 1], items)]), minlength=len(items))
    ranks = np.empty(len(items), dtype=np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(1, len(items) + 1)
    return pl.DataFrame({"item": items.astype(np.int64), RANK: ranks})


def open_arrays(path: Path) -> "np.lib.npyio.NpzFile":
    """Raises DataError when the file is missing or has no watch ratios."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; the replay reads kuairec_fully_observed.npz")
    arrays: np.lib.npyio.NpzFile = np.load(path, allow_pickle=False)
    if missing := {"train", "valid", "test_pos", "small_items", "wr_sample_ui", "wr_sample_ratio"} - set(arrays.files):
        raise DataError(f"{path} has no array {min(missing)}")
    return arrays


class MatrixAudience:
    """The users of the matrix on whom nothing was chosen: those of the prepared data set's test split."""

    name = "kuairec"

    def __init__(self, path: Path, data: SequenceData, seed: int, num_users: int | None = None) -> None:
        self._data, self._seed = data, seed
        rows = data.users_with_targets("test")
        self._row_of = dict(zip(data.catalogue.users.external(rows.tolist()), rows.tolist(), strict=True))
        # in a random order: they arrive in it, and a look sees the first of them
        order = np.random.default_rng([seed, 1]).permutation(sorted(self._row_of))
        self.users: Ids = order.astype(np.int64)[:num_users]
        with open_arrays(path) as arrays:
            self._people = np.unique(arrays["test_pos"][:, 0])
            self._items = np.unique(arrays["small_items"]).astype(np.int64)
            self._likes = np.zeros((len(self._people), len(self._items)), dtype=np.bool_)
            self._likes[self._places(arrays["test_pos"])] = True
            known, ratios = self._places(arrays["wr_sample_ui"]), arrays["wr_sample_ratio"].clip(max=MAX_RATIO)
        self._ratios = np.full(self._likes.shape, np.nan, dtype=np.float32)
        self._ratios[known] = ratios
        self._means = {is_play: self._mean_ratios(is_play) for is_play in (True, False)}

    def metrics(self) -> Sequence[str]:
        return (PLAYS, WATCHED, VIEWED)

    def rules(self, dropped: int) -> Mapping[str, Any]:
        return {"filter": {RANK: {"gt": dropped}}}

    def past(self, user: int) -> Past:
        """The short history of the log, then random videos of the matrix: the plays among them are true."""
        row = self._row_of[user]
        log = self._data.catalogue.items.external(self._data.history(row, "test").tolist())
        rng = np.random.default_rng([self._seed, 2, user])
        shown = rng.choice(self._items, NUM_RANDOM, replace=False)
        plays = shown[self._likes[self._places(np.stack([np.full(NUM_RANDOM, user), shown], 1))]]
        # how long they were watched is not known: as long as makes a positive, or histories would not take them
        signals = {"watch_time_ms": int(PLAY_RATIO * LENGTH_MS), "duration_ms": int(LENGTH_MS)}
        return Past([*map(int, log), *plays.tolist()], shown.tolist(), float(len(plays)), signals)

    def calibrations(self) -> Mapping[str, Sequence[tuple[float, float]]]:
        return {}

    def react(self, users: Ids, items: Ids) -> Reactions:
        places = self._places(np.stack([users, items], 1))
        plays, known = self._likes[places], self._ratios[places]
        modelled = np.where(plays, self._means[True][places[1]], self._means[False][places[1]])
        ratios = np.where(np.isnan(known), modelled, known)
        return Reactions(plays, ratios * LENGTH_MS, np.full(len(items), LENGTH_MS), is_real=~np.isnan(known))

    def _places(self, pairs: NDArray[np.int64]) -> tuple[Ids, Ids]:
        return np.searchsorted(self._people, pairs[:, 0]), np.searchsorted(self._items, pairs[:, 1])

    def _mean_ratios(self, is_play: bool) -> Numbers:
        """(M,) of each video: the mean of its known ratios, of plays or of other views, shrunk to that of all."""
        known = np.where(self._likes == is_play, self._ratios, np.nan)
        counts, sums = (~np.isnan(known)).sum(0), np.nansum(known, 0, dtype=np.float64)
        means: Numbers = (sums + SHRINKAGE * sums.sum() / max(1, counts.sum())) / (counts + SHRINKAGE)
        return means
