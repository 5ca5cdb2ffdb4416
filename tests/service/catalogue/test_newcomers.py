"""The vector of a new item is what training would have made of it: checked against items that were trained."""

import numpy as np
import pytest

from service.catalogue.newcomers import EXPOSURE, Newcomers

N, D, R = 1500, 8, 400


@pytest.fixture(scope="module")
def world():
    """Queries, items whose shares of their softmax follow their counts, and the counts, most popular first."""
    rng = np.random.default_rng(4)
    queries = (rng.normal(size=(R, D)) + np.eye(D)[0] * 2).astype(np.float32)
    counts = -np.sort(-np.exp(7 * rng.random(N)).astype(int))
    vectors = 0.5 * rng.normal(size=(N, D))
    for _ in range(20):
        scores = queries @ vectors.T
        shares = (np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).mean(0)
        vectors[:, 0] += 0.3 * np.log(counts / counts.sum() / shares)
    return queries, vectors.astype(np.float32), counts


@pytest.fixture(scope="module")
def newcomers(world):
    return Newcomers.of(*world)


def share(world, vector):
    """The mean share of one more item, in double precision."""
    queries, vectors, _ = (np.asarray(part, dtype=np.float64) for part in world)
    others = np.exp(queries @ vectors.T).sum(1)
    own = np.exp(queries @ vector)
    return float((own / (own + others)).mean())


@pytest.mark.parametrize("num_watchers", [0, 1])
def test_an_item_gets_the_share_of_items_that_are_watched_as_often(world, newcomers, num_watchers):
    counts = world[2]
    for count in (20, 100, 600):
        vector = newcomers.fit(np.zeros(D), count, world[0][3].astype(float), num_watchers)
        # the prior and a watcher pull it away from there, by less than a factor of e
        assert abs(np.log(share(world, vector) * counts.sum() / (EXPOSURE * count))) < (0.4 if num_watchers == 0 else 1)


def test_an_item_may_not_be_expected_more_often_than_any_was_seen(world, newcomers):
    most = float(world[2].max())
    np.testing.assert_allclose(newcomers.fit(np.zeros(D), 10**9), newcomers.fit(np.zeros(D), 2 * most))


def test_more_watchers_bring_it_nearer_to_them_than_to_others(world, newcomers):
    queries = world[0].astype(float)
    watcher, norms = queries[3], []
    for num_watchers in (0, 1, 5, 30):
        vector = newcomers.fit(np.zeros(D), 50, watcher, num_watchers)
        norms.append(float(watcher @ vector - (queries @ vector).mean()))
    assert norms == sorted(norms)


def test_the_estimate_is_where_its_objective_is_highest(world, newcomers):
    """The equations of the decision, by small steps in all directions."""
    rng, described, watcher, count = np.random.default_rng(0), np.zeros(D), world[0][7].astype(float), 80.0
    vector = newcomers.fit(described, count, watcher, 3)
    level = np.polyval(newcomers.level, np.log1p(EXPOSURE * count))

    def objective(point):
        own = np.log(np.mean(1 / (1 + np.exp(newcomers.sums - newcomers.queries @ point))))
        away = point - newcomers.typical(np.array([count]))[0]
        return 2 * 3 * (watcher @ point - own) - 15 * (level - own) ** 2 - away @ newcomers.precision @ away / 2

    best = objective(vector)
    for _ in range(50):
        step = rng.normal(size=D)
        assert objective(vector + 0.02 * step / np.linalg.norm(step)) < best + 1e-6


def test_a_catalogue_of_few_alike_items_gives_a_vector_all_the_same():
    vectors, queries = np.ones((3, 4), dtype=np.float32), np.ones((2, 4), dtype=np.float32)
    few = Newcomers.of(queries, vectors, np.array([5, 5, 5]))
    assert np.isfinite(few.fit(np.zeros(4), 5.0, queries[0].astype(float), 2)).all()
