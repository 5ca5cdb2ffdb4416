"""Reactions: drawn by name, true where the data are complete, modelled and calibrated where they are not."""

import numpy as np
import pytest

from model.data.prepare import PrepareOptions, prepare
from model.logs.events import DataError
from model.positive import PositiveRule
from recall.replay.audiences.draws import uniform
from recall.replay.audiences.kuairand import LogAudience
from recall.replay.audiences.logistic import calibration, fit
from recall.replay.audiences.matrix import MatrixAudience, rank_table

ITEMS = [40, 50, 60, 70]
PEOPLE = [*range(1, 11)]


@pytest.fixture
def matrix_file(tmp_path):
    """Ten people; each plays the video whose number follows from theirs, and 40; 60 is the popular one of the log."""
    path = tmp_path / "kuairec.npz"
    plays = [[user, item] for user in PEOPLE for item in {40, ITEMS[user % 4]}]
    arrays = {
        "train": [[user, item] for user in PEOPLE for item in ([60, 99] if user % 2 else [60])],
        "valid": [[1, 50]],
        "test_pos": plays,
        "small_items": ITEMS,
        "wr_sample_ui": [[1, 40], [1, 60], [2, 40]],
    }
    ratios = np.array([3.0, 0.5, 144.0], dtype=np.float32)
    np.savez(path, **{name: np.array(pairs, dtype=np.int32) for name, pairs in arrays.items()}, wr_sample_ratio=ratios)
    return path


@pytest.fixture
def matrix(matrix_file):
    data, _ = prepare(PrepareOptions("kuairec", matrix_file))
    return MatrixAudience(matrix_file, data, seed=0)


def test_draws_are_named_uniform_and_apart():
    users, items = np.repeat(np.arange(300), 300), np.tile(np.arange(300), 300)
    first, second = uniform(0, 0, users, items), uniform(0, 1, users, items)
    assert np.histogram(first, 10, (0, 1))[0] == pytest.approx(9_000, rel=0.05)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.015
    assert uniform(0, 0, users[7:8], items[7:8]) == first[7]
    assert abs(np.corrcoef(first, uniform(0, 0, items, users))[0, 1]) < 0.015


def test_logistic_recovers_planted_weights():
    rng = np.random.default_rng(3)
    features = rng.standard_normal((40_000, 2))
    happened = (rng.random(40_000) < 1 / (1 + np.exp(4 - features @ [1.0, -0.5]))).astype(float)
    model = fit(features, happened)
    assert model.weights == pytest.approx([-4, 1, -0.5], abs=0.1)
    parts = calibration(model.chances(features), happened)
    assert [modelled for modelled, _ in parts] == pytest.approx([observed for _, observed in parts], abs=0.003)


def test_the_matrix_ranks_its_videos_by_the_log(matrix_file):
    assert dict(rank_table(matrix_file).iter_rows()) == {60: 1, 50: 2, 40: 3, 70: 4}


def test_plays_of_the_matrix_are_true(matrix):
    user = int(matrix.users[0])
    reactions = matrix.react(np.full(4, user), np.array(ITEMS))
    assert reactions.plays.tolist() == [item in {40, ITEMS[user % 4]} for item in ITEMS]


def test_a_known_watch_ratio_is_taken_and_an_outlier_capped(matrix):
    # reactions are known of everybody in the matrix, whether or not they take part
    reactions = matrix.react(np.array([1, 1, 2, 3]), np.array([40, 60, 40, 40]))
    assert reactions.view_ms[:3].tolist() == [30_000, 5_000, 200_000]
    assert reactions.is_real.tolist() == [True, True, True, False]
    # the mean of all plays and of the video's, which are the same two
    assert reactions.view_ms[3] == pytest.approx(115_000)


def test_the_users_of_the_validation_split_take_no_part(matrix):
    assert len(matrix.users) == 8


def test_the_pre_period_is_random_videos_and_true_plays(matrix, monkeypatch):
    monkeypatch.setattr("recall.replay.audiences.matrix.NUM_RANDOM", 3)
    user = int(matrix.users[0])
    past = matrix.past(user)
    assert len(set(past.seen)) == 3
    told = [item for item in past.seen if item in {40, ITEMS[user % 4]}]
    assert past.plays_before == len(told)
    assert list(past.plays[len(past.plays) - len(told) :]) == told
    assert past.plays == matrix.past(user).plays
    # what the service is told of a play is one to the rule by which the arms were trained
    assert PositiveRule(2.0).counts("play", past.signals["watch_time_ms"], past.signals["duration_ms"])


def test_a_file_without_watch_ratios_is_refused(tmp_path):
    np.savez(tmp_path / "k.npz", train=np.zeros((1, 2)))
    with pytest.raises(DataError, match="has no array small_items"):
        rank_table(tmp_path / "k.npz")


@pytest.fixture(scope="module")
def log(shared_data):
    return LogAudience(shared_data / "kuairand_pure", seed=0)


@pytest.mark.data
def test_the_model_is_calibrated_on_days_that_it_has_not_seen(log):
    by_metric = log.calibrations()
    assert len(log.users) == 24_548
    for metric, allowed in (("plays", 0.03), ("likes", 0.012), ("comments", 0.003), ("follows", 0.002)):
        for modelled, observed in by_metric[metric]:
            assert modelled == pytest.approx(observed, abs=allowed), metric
    rates = [observed for _, observed in by_metric["plays"]]
    assert rates == sorted(rates)
    assert rates[-1] > 4 * rates[0]


@pytest.mark.data
def test_popular_videos_are_left_out_of_the_matrix_alone(log):
    assert log.rules(0) == {}
    with pytest.raises(ValueError, match="--dropped: only KuaiRec's videos"):
        log.rules(50)


@pytest.mark.data
def test_a_pair_of_the_log_has_its_own_reaction(log):
    shown = log._log.filter(log._log["long_view"] == 1)[:500]
    users, items = shown["user_id"].to_numpy(), shown["video_id"].to_numpy()
    reactions = log.react(users, items)
    assert reactions.is_real.all()
    assert reactions.plays.all()
    assert reactions.view_ms == pytest.approx(shown["play_time_ms"].to_numpy())
    assert reactions.actions["likes"].tolist() == (shown["is_like"] == 1).to_list()
    assert (reactions.expected["plays"] == 1).all()
    sums = reactions.sums()
    # the model's chance stands beside what happened
    assert sums["real_plays"].sum() == 500
    assert 0.2 < sums["real_modelled"].mean() < 0.7


@pytest.mark.data
def test_drawn_reactions_follow_their_chances(log):
    users = np.repeat(log.users[:1500], 40)
    items = np.random.default_rng(0).choice(log._tables.item_ids, len(users))
    sums = log.react(users, items).sums()
    assert 0 < sums["real"].mean() < 0.01
    for metric in ("plays", "likes"):
        assert sums[metric].mean() == pytest.approx(sums[f"{metric}_expected"].mean(), rel=0.1)
    # actions stand on plays alone
    assert not (sums["likes"] > sums["plays"]).any()
