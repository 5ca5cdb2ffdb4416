"""The synthetic log: deterministic, well formed, and worth learning from."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from model.data.splits import SplitRule, split_log
from model.data.synthetic import SyntheticSpec, generate
from model.logs.events import SIGNALS, DataError

SMALL = SyntheticSpec(num_users=800, num_items=600, num_topics=20)


@pytest.fixture(scope="module")
def made():
    return generate(SMALL)


@pytest.fixture(scope="module")
def data(made):
    return split_log("synthetic", made.log, SplitRule())


def test_equal_specs_give_equal_logs(made):
    again = generate(SMALL)
    assert_frame_equal(made.log.frame, again.log.frame)
    assert np.array_equal(made.topics, again.topics)


def test_seed_changes_the_log(made):
    assert not made.log.frame.equals(generate(replace(SMALL, seed=8)).log.frame)


def test_size_follows_the_spec(made):
    assert made.log.users.n_unique() == 800
    assert set(made.log.items.unique()) <= set(range(1, 601))
    assert len(made.log) / 800 == pytest.approx(SMALL.mean_sessions * SMALL.mean_session_videos, rel=0.1)


def test_every_topic_has_items(made):
    assert made.topics.shape == (600,)
    assert set(made.topics.tolist()) == set(range(20))


def test_times_are_sorted_and_never_equal_for_a_user(made):
    assert made.log.times.is_sorted()
    assert not made.log.frame.select("user", "time").is_duplicated().any()


def test_log_has_every_signal_but_clicks(made):
    assert set(made.log.signals) == set(SIGNALS) - {"click", "watch_ratio"}
    assert made.log.frame.null_count().transpose().sum().item() == 0


def test_popularity_is_skewed(made):
    counts = np.sort(made.log.items.value_counts()["count"].to_numpy())[::-1]
    assert counts[:60].sum() > 0.2 * counts.sum()


def test_repeats_are_rare(made):
    assert made.log.frame.select("user", "item").is_duplicated().mean() < 0.1


def test_likes_come_from_watching(made):
    full = pl.col("play_time_ms") >= pl.col("duration_ms")
    likes = made.log.frame.select(full=pl.col("like").filter(full).mean(), part=pl.col("like").filter(~full).mean())
    assert likes["full"].item() > 2 * likes["part"].item()


def hit_rate(data, scores):
    """HR@10 on test, seen items filtered, with an (N + 1,) score for each history."""
    hits = []
    for user in data.users_with_targets("test"):
        history = data.history(user, "test")
        ranked = scores(history).copy()
        ranked[history] = -1
        hits.append((ranked > ranked[data.targets(user, "test")[0]]).sum() < 10)
    return np.mean(hits)


def test_order_can_be_learned(data):
    size = len(data.catalogue.items) + 1
    follows = np.zeros((size, size))
    for history in (data.train[row] for row in range(len(data.train))):
        np.add.at(follows, (history[:-1], history[1:]), 1)
    popularity = np.concatenate([[0], data.catalogue.counts])
    markov = hit_rate(data, lambda history: follows[history[-1]] + 1e-4 * popularity)
    bag = hit_rate(data, lambda history: follows[history].sum(axis=0) + 1e-4 * popularity)
    assert markov > 1.5 * bag
    assert bag > 2 * hit_rate(data, lambda history: popularity)


def test_smallest_spec_runs():
    spec = SyntheticSpec(
        num_users=1, num_items=2, num_topics=1, num_interests=1, mean_sessions=1, mean_session_videos=1
    )
    assert len(generate(spec).log) >= 1


@pytest.mark.parametrize("wrong", [{"num_users": 0}, {"num_items": 9}, {"num_interests": 50}, {"mean_sessions": 0.5}])
def test_impossible_spec_is_refused(wrong):
    with pytest.raises(DataError):
        SyntheticSpec(**wrong)
