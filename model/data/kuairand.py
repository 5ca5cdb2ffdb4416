"""KuaiRand-Pure, the processed copy: real short-video behaviour, split by time. Data: kuairand.com (CC BY-SA 4.0).

Train is `long_watch_seq` of user_sequences.parquet, up to 24 April 2022; valid (25-30 April) and test (1-8 May) are the
positive rows of the exposure files. Those files were cut by the server's `date`, while `time_ms` can lie up to an hour
before it: 141 rows of the valid file carry a time of 24 April, 192 rows of the test file one of 30 April, and none lies
the other way. Rows go where their `time_ms` (UTC+8) says, so 39 long views join train and 55 join valid. None of them
precedes its user's last training time. Within valid and within test only the first of equal (user, item) pairs stays
(5,883 exposures are one event logged twice); repeats in train stay, as in every other format.

An event may end with a long view, a like or both: in train the likes of `like_seq` (without times) mark the first
long watch of the same video; those of a video that was not watched for long stand in no sequence.

The catalogue is all of item_features, the users all of user_features: 208 of them never occur, and nobody is missing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.catalogue import IdMap
from model.data.categories import Categories, encode_categories
from model.data.items import with_attributes
from model.data.outcomes import COLUMN, LONG_VIEW, columns_of, marks_of
from model.data.sequences import SequenceData
from model.data.splits import TEST, TRAIN, VALID, RowEvents
from model.logs.events import BadRow, DataError, ReadReport

Target = Literal["long_view", "is_click"]

CHINA = timezone(timedelta(hours=8))
VALID_FROM_MS = int(datetime(2022, 4, 25, tzinfo=CHINA).timestamp() * 1000)
TEST_FROM_MS = int(datetime(2022, 5, 1, tzinfo=CHINA).timestamp() * 1000)
NO_TAG = "unknown"
OUTCOMES = {LONG_VIEW: "long_view", "like": "is_like"}  # columns of the exposure files
# columns of item_features that become attributes, where the file has them
ATTRIBUTES = {
    "author_id": "author",
    "video_duration": "duration_ms",
    "upload_date": "upload_date",
    "video_type": "video_type",
}


@dataclass(frozen=True)
class KuaiRandTables:
    """The columns that are read of the five files."""

    train: pl.DataFrame  # user, item, part and marks; oldest first within each user
    exposures: pl.DataFrame  # user, item, time, part and marks; by time; positives only
    users: IdMap
    items: IdMap
    tags: tuple[str, ...]  # of item rows 1..N, comma separated
    features: pl.DataFrame  # of the same rows: `item` and those of ATTRIBUTES that there are
    num_exposures: int  # positive or not


def read_kuairand(folder: Path, name: str, target: Target = "long_view") -> tuple[SequenceData, ReadReport]:
    """The prepared data set; `target` says which exposures are positives of valid and test.

    Train is the long watches with either target: the sequences carry no clicks.
    Raises DataError when a file or a column is missing.
    """
    tables = _read_tables(folder, target)
    events = pl.concat([tables.train, tables.exposures.select(tables.train.columns)])
    known, bad = _drop_strangers(events, tables)
    kept = _drop_repeats(known)
    user_rows, item_rows = _rows(tables.users, kept["user"]), _rows(tables.items, kept["item"])
    rows = RowEvents(tables.items, tables.users, user_rows, item_rows, kept["part"].to_numpy(), marks_of(kept))
    report = ReadReport.of(tables.train.height + tables.num_exposures, bad)
    categories = _categories(tables)
    data = rows.to_data(name, "by-time", encode_categories(tables.items, categories))
    return with_attributes(data, tables.features, categories), report


def _read_tables(folder: Path, target: Target) -> KuaiRandTables:
    sequences = _read(folder, "user_sequences", "user_id", "long_watch_seq", "like_seq")
    names = tuple(dict.fromkeys(("user_id", "video_id", "time_ms", target, *OUTCOMES.values())))
    shown = pl.concat([_read(folder, "exposures_val", *names), _read(folder, "exposures_test", *names)])
    present = _present(folder, "item_features")
    items = _read(folder, "item_features", "video_id", "tag", *present).sort("video_id")
    users = _read(folder, "user_features", "user_id").sort("user_id")
    return KuaiRandTables(
        train=_train(sequences),
        exposures=_positives(shown, target),
        users=IdMap(users["user_id"].to_numpy()),
        items=IdMap(items["video_id"].to_numpy()),
        tags=tuple(items["tag"].fill_null(NO_TAG).to_list()),
        features=items.select("video_id", *present).rename({"video_id": "item", **present}),
        num_exposures=shown.height,
    )


def _train(sequences: pl.DataFrame) -> pl.DataFrame:
    watched, liked = (
        sequences.select(pl.col("user_id").alias("user"), pl.col(name).alias("item")).explode("item").drop_nulls()
        for name in ("long_watch_seq", "like_seq")
    )
    likes = liked.unique().with_columns(pl.lit(True).alias("is_liked"))
    events = watched.join(likes, on=["user", "item"], how="left", maintain_order="left")
    first = pl.int_range(pl.len()).over("user", "item") == 0
    return events.select(
        "user",
        "item",
        pl.lit(TRAIN, dtype=pl.Int8).alias("part"),
        pl.lit(True).alias(f"{COLUMN}{LONG_VIEW}"),
        (pl.col("is_liked").fill_null(False) & first).alias(f"{COLUMN}like"),
    )


def _present(folder: Path, stem: str) -> dict[str, str]:
    """The columns of a file that become attributes, with their names there."""
    path = folder / f"{stem}.parquet"
    columns = pl.read_parquet_schema(path) if path.is_file() else {}
    return {name: ours for name, ours in ATTRIBUTES.items() if name in columns}


def _read(folder: Path, stem: str, *columns: str) -> pl.DataFrame:
    path = folder / f"{stem}.parquet"
    if not path.is_file():
        raise DataError(f"{path} is not a file; kuairand reads the folder of the processed KuaiRand-Pure copy")
    try:
        return pl.read_parquet(path, columns=list(columns))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read with the columns {', '.join(columns)}: {error}") from error


def _positives(shown: pl.DataFrame, target: Target) -> pl.DataFrame:
    time = pl.col("time_ms")
    part = pl.when(time >= TEST_FROM_MS).then(TEST).when(time >= VALID_FROM_MS).then(VALID).otherwise(TRAIN)
    # Both files are sorted; after a stable sort equal times keep the order of the files.
    liked = shown.filter(pl.col(target) == 1).sort("time_ms", maintain_order=True)
    marks = [(pl.col(theirs) == 1).alias(f"{COLUMN}{name}") for name, theirs in OUTCOMES.items()]
    return liked.select(
        pl.col("user_id").alias("user"),
        pl.col("video_id").alias("item"),
        time,
        part.cast(pl.Int8).alias("part"),
        *marks,
    )


def _drop_strangers(events: pl.DataFrame, tables: KuaiRandTables) -> tuple[pl.DataFrame, list[BadRow]]:
    """Takes out events whose user or video stands in no feature file (the copy we know has none)."""
    marked = events.with_row_index("line", offset=1).with_columns(
        pl.col("user").is_in(tables.users.ids.tolist()).alias("user_known"),
        pl.col("item").is_in(tables.items.ids.tolist()).alias("item_known"),
    )
    known = pl.col("user_known") & pl.col("item_known")
    strangers = marked.filter(~known).select("line", "user", "item").iter_rows()
    bad = [BadRow(line, f"no row in the feature files: user {user} or video {item}") for line, user, item in strangers]
    return marked.filter(known).select(events.columns), bad


def _drop_repeats(events: pl.DataFrame) -> pl.DataFrame:
    # Targets are a set to recall; a history is a sequence, where watching again means something.
    marks = [pl.col(name).any().over("user", "item", "part") for name in columns_of(events)]
    again = pl.col("part") != TRAIN
    events = events.with_columns(pl.when(again).then(mark).otherwise(pl.col(mark.meta.output_name())) for mark in marks)
    first = pl.int_range(pl.len()).over("user", "item", "part") == 0
    return events.filter((pl.col("part") == TRAIN) | first)


def _rows(ids: IdMap, external: pl.Series) -> NDArray[np.int32]:
    return np.searchsorted(ids.ids, external.to_numpy()).astype(np.int32) + 1


def _categories(tables: KuaiRandTables) -> Categories:
    return {
        str(item): [int(tag) for tag in joined.split(",") if tag != NO_TAG]
        for item, joined in zip(tables.items.ids.tolist(), tables.tags, strict=True)
    }
