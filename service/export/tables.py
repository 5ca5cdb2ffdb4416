"""Lists as a table: a row a user, its columns named as the fields of an answer of POST /recall."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.engine.arms import Release
from service.export.lists import UserList
from service.lists.fill import FILLED


@dataclass(frozen=True)
class ListTable:
    """Makes tables of one release's lists."""

    release: Release

    def frame(self, users: pl.Series, lists: Sequence[UserList]) -> pl.DataFrame:
        """(P, 6) user, items, scores, sources, degraded, bundle; users and lists stand in one order."""
        lengths = np.array([len(own.listed.rows) for own in lists])
        # filled from the left up to the longest list: arrays of one shape become lists without an object an item
        inside = np.arange(max(int(lengths.max(initial=0)), 1)) < lengths[:, None]
        rows, scores, sources = (
            _padded([own.listed[n] for own in lists], inside, kind)
            for n, kind in enumerate((np.int64, np.float32, np.int64))
        )
        names = [self.release.source_name(source) for source in range(FILLED, int(sources.max(initial=0)) + 1)]
        columns = {
            "items": self._item_ids.gather(np.maximum(rows - 1, 0).ravel()),
            "scores": pl.Series(scores.ravel()),
            "sources": pl.Series(names).gather((sources - FILLED).ravel()),
        }
        nested = [flat.reshape(inside.shape).arr.to_list().alias(name) for name, flat in columns.items()]
        degraded = pl.Series("degraded", [own.degraded for own in lists], pl.List(pl.String))
        frame = pl.DataFrame([users, *nested, degraded, pl.Series("length", lengths)])
        cut = frame.with_columns(pl.col(*columns).list.head(pl.col("length")), bundle=pl.lit(self.release.bundle))
        return cut.drop("length")

    @cached_property
    def _item_ids(self) -> pl.Series:
        """The id of row r at r - 1."""
        items = self.release.catalogue.items
        return pl.Series(items.ids if items.are_integers else items.ids.tolist())


def _padded(columns: Sequence[NDArray[Any]], inside: NDArray[np.bool_], kind: type) -> NDArray[Any]:
    padded: NDArray[Any] = np.zeros(inside.shape, dtype=kind)
    if columns:
        padded[inside] = np.concatenate(columns)
    return padded
