"""The vector of an item that training never saw: scores as of items that are as popular, its watchers' direction."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.exact import ExactIndex
from model.attributes.table import Attributes
from model.catalogue import Catalogue, IdMap
from service.catalogue.changes import ItemWatched, PutItem
from service.catalogue.slot_vectors import Priors, SlotVectors, unit
from service.catalogue.state import CatalogueState

N, D, R = 200, 8, 40
RNG = np.random.default_rng(3)
COUNTS = np.sort(RNG.integers(1, 500, N))[::-1].astype(np.int64)
COMMON = np.eye(D, dtype=np.float32)[0]
QUERIES = (2 * COMMON + RNG.normal(size=(R, D))).astype(np.float32)
ITEMS = (0.3 * RNG.normal(size=(N, D)) + np.outer(np.log1p(COUNTS), 0.2 * COMMON)).astype(np.float32)
AUTHORS = [n % 4 for n in range(N)]
DIRECTION = unit(RNG.normal(size=D).astype(np.float32))


def slots():
    attributes = Attributes(pl.DataFrame({"author": AUTHORS, "length": [float(n) for n in range(N)]}))
    catalogue = Catalogue(IdMap.of(range(N)), IdMap.of([1]), COUNTS, attributes=attributes)
    return SlotVectors("recgpt", catalogue, ExactIndex(ITEMS), QUERIES)


def state(*changes):
    return CatalogueState().after(enumerate(changes, start=1))


@pytest.fixture(scope="module")
def priors():
    return Priors.of(QUERIES, ITEMS, COUNTS)


@given(st.integers(0, 10**6), st.floats(0, 1000))
def test_its_scores_have_the_mean_and_spread_of_items_watched_so_often(priors, seed, count):
    direction = unit(np.random.default_rng(seed).normal(size=D).astype(np.float32))
    vector, popularity = priors.fit(direction, count), np.log1p(min(count, priors.most))
    own = vector - (vector @ priors.common) * priors.common
    assert (QUERIES @ vector).mean() == pytest.approx(np.polyval(priors.mean, popularity), abs=1e-3)
    assert (QUERIES @ own).std() == pytest.approx(max(np.polyval(priors.spread, popularity), 0), abs=1e-3)


def test_an_item_that_is_watched_more_scores_higher(priors):
    few, many = (float((QUERIES @ priors.fit(DIRECTION, count)).mean()) for count in (1, 300))
    assert many > few


def test_nobody_is_expected_to_be_watched_more_than_anything_was(priors):
    assert np.array_equal(priors.fit(DIRECTION, priors.most), priors.fit(DIRECTION, 10 * priors.most))


def test_a_direction_that_says_nothing_is_a_vector_of_the_common_part(priors):
    vector = priors.fit(np.zeros(D, dtype=np.float32), 50)
    assert np.isfinite(vector).all()
    assert abs(vector @ priors.common) == pytest.approx(np.linalg.norm(vector), rel=1e-4)


@pytest.mark.parametrize("counts", [np.full(N, 7), np.where(np.arange(N) < 9, 7, 8)])
def test_few_different_counts_are_enough(counts):
    assert np.isfinite(Priors.of(QUERIES, ITEMS, counts.astype(np.int64)).fit(DIRECTION, 100)).all()


def test_an_item_of_the_bundle_keeps_its_trained_vector():
    assert np.array_equal(slots().of(state(PutItem(7, {"author": 3})))[0], ITEMS[7])


def test_a_vector_that_was_put_is_taken_where_it_fits():
    fits, other = slots().of(state(PutItem(900, None, {"recgpt": [0.5] * D}), PutItem(901, None, {"recgpt": [1.0]})))
    assert fits.tolist() == [0.5] * D
    assert np.isfinite(other).all()


def test_watchers_move_it_towards_them():
    own, changes = slots(), state(PutItem(900))
    before = own.of(changes)[0]
    watcher = 3 * DIRECTION[None] + QUERIES.mean(0)
    for _ in range(5):
        own.learn(0, watcher)
    assert own.num_learnt(0) == 5
    assert own.of(changes)[0] @ DIRECTION > before @ DIRECTION


def test_items_of_one_author_point_the_same_way_and_those_of_another_do_not():
    first, same, other = slots().of(state(*[PutItem(900 + n, {"author": a}) for n, a in enumerate((1, 1, 2))]))
    assert np.array_equal(first, same)
    assert not np.allclose(first, other)


def test_a_value_that_no_item_has_says_nothing():
    unknown, silent = slots().of(state(PutItem(900, {"author": 99}), PutItem(901)))
    assert np.array_equal(unknown, silent)


def test_more_watchers_make_it_more_popular():
    own = slots()
    watched = [ItemWatched(900, user, [1]) for user in range(30)]
    quiet, busy = own.of(state(PutItem(900)))[0], own.of(state(PutItem(900), *watched))[0]
    expected = slots().of(state(PutItem(900, None, {}, 400.0)))[0]
    scores = [float((QUERIES @ vector).mean()) for vector in (quiet, busy, expected)]
    assert scores[0] <= scores[1] < scores[2]


def test_a_slot_that_is_gone_has_no_vector():
    assert not slots().of(state(PutItem(900), PutItem(900)))[0].any()


def test_unit_vectors_have_length_one_and_nothing_stays_nothing():
    lengths = np.linalg.norm(unit(np.vstack([ITEMS[:3], np.zeros((1, D), dtype=np.float32)])), axis=1)
    assert lengths == pytest.approx([1, 1, 1, 0])
