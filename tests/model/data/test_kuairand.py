"""KuaiRand-Pure: a small copy made here, and the real one."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from model.data.kuairand import CHINA, read_kuairand
from model.logs.events import DataError


def ms(month, day, hour):
    return int(datetime(2022, month, day, hour, tzinfo=CHINA).timestamp() * 1000)


def exposures(*rows):
    names = ["user_id", "video_id", "time_ms", "long_view", "is_click", "is_like"]
    return pl.DataFrame(rows, schema=names, orient="row")


VAL = exposures((1, 12, ms(4, 24, 23), 1, 1, 1), (1, 13, ms(4, 25, 1), 1, 0, 0), (2, 13, ms(4, 26, 1), 0, 1, 1))
TEST = exposures((1, 14, ms(4, 30, 23), 1, 1, 0), (1, 15, ms(5, 1, 0), 1, 1, 0), (1, 15, ms(5, 2, 0), 1, 1, 1))


@pytest.fixture
def folder(tmp_path):
    tables = {
        "user_sequences": pl.DataFrame(
            {"user_id": [2, 1], "long_watch_seq": [[], [11, 11]], "like_seq": [[], [15, 11, 11]]},
            schema_overrides={"long_watch_seq": pl.List(pl.Int64), "like_seq": pl.List(pl.Int64)},
        ),
        "exposures_val": VAL,
        "exposures_test": TEST,
        "item_features": pl.DataFrame({"video_id": [15, 11, 12, 13, 14], "tag": ["8,40", "8", "unknown", "9", None]}),
        "user_features": pl.DataFrame({"user_id": [3, 1, 2]}),
    }
    for name, table in tables.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def external(data, user):
    row = data.catalogue.users.row(user) - 1
    return tuple(data.catalogue.items.external(part[row].tolist()) for part in (data.train, data.valid, data.test))


def test_rows_go_where_their_time_says(folder):
    data, _ = read_kuairand(folder, "k")
    assert external(data, 1) == ([11, 11, 12], [13, 14], [15])


def test_catalogue_is_that_of_the_feature_files(folder):
    data, report = read_kuairand(folder, "k")
    assert data.catalogue.users.ids.tolist() == [1, 2, 3]
    assert data.catalogue.items.ids.tolist() == [11, 12, 13, 14, 15]
    assert (report.rows_read, report.rows_bad) == (8, 0)


def test_clicks_as_target_change_valid_and_test_only(folder):
    data, _ = read_kuairand(folder, "k", "is_click")
    assert external(data, 1) == ([11, 11, 12], [14], [15])
    assert external(data, 2) == ([], [13], [])


def test_events_are_marked_by_what_they_ended_with(folder):
    """A like of what was not watched for long stands nowhere; of two equal targets one like is enough."""
    marks = read_kuairand(folder, "k")[0].outcomes
    assert [flags.tolist() for flags in marks["like"]] == [[True, False, True], [False, False], [True]]
    assert all(flags.all() for flags in marks["long_view"])
    clicked = read_kuairand(folder, "k", "is_click")[0].outcomes["long_view"]
    assert [flags.tolist() for flags in clicked] == [[True] * 3, [True, False], [True]]


def test_tags_are_dense_categories(folder):
    categories = read_kuairand(folder, "k")[0].catalogue.categories
    assert [categories[row].tolist() for row in range(5)] == [[0], [], [1], [], [0, 2]]


def test_video_without_features_is_reported(folder):
    exposures((1, 99, ms(5, 3, 0), 1, 1, 0)).write_parquet(folder / "exposures_test.parquet")
    _, report = read_kuairand(folder, "k")
    assert report.rows_bad == 1
    assert "video 99" in report.first_bad[0].reason


def test_missing_file_is_named(folder):
    (folder / "item_features.parquet").unlink()
    with pytest.raises(DataError, match=r"item_features.parquet is not a file"):
        read_kuairand(folder, "k")


def test_missing_column_is_named(folder):
    VAL.drop("is_click").write_parquet(folder / "exposures_val.parquet")
    with pytest.raises(DataError, match="is_click"):
        read_kuairand(folder, "k", "is_click")


@pytest.fixture(scope="module")
def real(shared_data):
    return read_kuairand(shared_data / "kuairand_pure", "kuairand_pure")[0]


@pytest.mark.data
def test_real_sizes(real):
    assert (len(real.catalogue.users), len(real.catalogue.items)) == (27_285, 7_583)
    assert [len(part.values) for part in (real.train, real.valid, real.test)] == [390_968, 28_951, 41_490]
    assert [len(real.users_with_targets(split)) for split in ("valid", "test")] == [13_643, 15_654]


def popularity_recall(data, counts, k, filter_seen):
    order = np.argsort(-counts, kind="stable") + 1
    recalls = []
    for user in data.users_with_targets("test"):
        seen = data.history(user, "test") if filter_seen else []
        head = order[: k + len(seen)]
        top = head[~np.isin(head, seen)][:k]
        recalls.append(np.isin(data.targets(user, "test"), top).mean())
    return np.mean(recalls)


@pytest.mark.data
@pytest.mark.parametrize(
    ("k", "filter_seen", "floor"), [(20, False, 0.0742), (50, False, 0.1452), (20, True, 0.0803), (50, True, 0.1536)]
)
def test_real_popularity_floor(real, k, filter_seen, floor):
    counts = real.catalogue.counts + np.bincount(real.valid.values, minlength=7_584)[1:]
    assert popularity_recall(real, counts, k, filter_seen) == pytest.approx(floor, abs=5e-4)
