"""The vector of an item that training never saw: scores as of items that are as popular, its watchers' direction."""

import numpy as np
import polars as pl

from index.exact import ExactIndex
from model.attributes.table import Attributes
from model.catalogue import Catalogue, IdMap
from service.catalogue.changes import PutItem
from service.catalogue.slot_vectors import GrowingRows, References, SlotVectors
from service.catalogue.state import CatalogueState

N, D, R = 200, 8, 40
RNG = np.random.default_rng(3)
COUNTS = np.sort(RNG.integers(1, 500, N))[::-1].astype(np.int64)
COMMON = np.eye(D, dtype=np.float32)[0]
QUERIES = (2 * COMMON + RNG.normal(size=(R, D))).astype(np.float32)
ITEMS = (0.3 * RNG.normal(size=(N, D)) + np.outer(np.log1p(COUNTS), 0.2 * COMMON)).astype(np.float32)
AUTHORS = [n % 4 for n in range(N)]
DIRECTION = np.eye(D, dtype=np.float32)[3]


def slots():
    attributes = Attributes(pl.DataFrame({"author": AUTHORS, "length": [float(n) for n in range(N)]}))
    catalogue = Catalogue(IdMap.of(range(N)), IdMap.of([1]), COUNTS, attributes=attributes)
    return SlotVectors("recgpt", catalogue, ExactIndex(ITEMS), References(lambda: QUERIES))


def state(*changes):
    return CatalogueState().after(enumerate(changes, start=1))


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


def row(value):
    return np.full(D, value, dtype=np.float32)


def test_tables_that_grow_share_their_memory_and_older_ones_stay_as_they_were():
    rows = GrowingRows(D)
    first = rows.with_rows(rows.none, 2, {0: row(1), 1: row(2)})
    second = rows.with_rows(first, 4, {2: row(3), 3: row(4)})
    assert second.base is first.base
    changed = rows.with_rows(second, 4, {1: row(9)})
    assert changed.base is not first.base
    assert (first[:, 0].tolist(), second[:, 0].tolist()) == ([1, 2], [1, 2, 3, 4])
    assert changed[:, 0].tolist() == [1, 9, 3, 4]


def test_a_shorter_table_that_is_made_later_takes_no_rows_from_a_longer_one():
    rows = GrowingRows(D)
    longer = rows.with_rows(rows.none, 3, {n: row(n) for n in range(3)})
    shorter = rows.with_rows(longer, 1, {})
    again = rows.with_rows(shorter, 2, {1: row(7)})
    assert longer[:, 0].tolist() == [0, 1, 2]
    assert again[:, 0].tolist() == [0, 7]


def test_thousands_of_slots_have_the_vectors_that_one_state_of_them_all_gives():
    own, step, number = slots(), CatalogueState(), 0
    for size in (1, 300, 4000, 5000, 2):
        puts = [PutItem(1000 + number + n, None, {"recgpt": [number + n + 1.0] * D}) for n in range(size)]
        step = step.after(enumerate(puts, start=number + 1))
        number += size
        vectors = own.of(step)
    assert np.array_equal(vectors[:, 0], np.arange(1, number + 1))
    assert np.array_equal(vectors, slots().of(step))
