"""Hits of the bundle and of new items become one list of hits; rules that an engine cannot keep are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.base import Hits
from index.exact import ExactIndex
from model.records import History, PromptPlan, ServingPlan
from model.rules import Cap, ListRules
from service.engine.finding import Asked, Finder, joined
from service.engine.messages import EngineRequest
from service.errors import BadRequest

SCORES = st.lists(st.integers(-5, 5), max_size=6).map(lambda values: sorted(values, reverse=True))


def hits(values, first):
    rows = np.arange(first, first + len(values), dtype=np.int64)[None]
    return Hits(rows, np.array([values], dtype=np.float32))


@given(SCORES, SCORES, st.integers(1, 12))
def test_joined_hits_are_the_best_of_both_the_bundles_first_within_a_tie(main, fresh, depth):
    merged = joined(hits(main, 1), hits(fresh, 100), depth)
    ranked = [(-value, 0, row) for row, value in enumerate(main, 1)]
    ranked += [(-value, 1, row) for row, value in enumerate(fresh, 100)]
    assert merged.rows[0].tolist() == [row for _, _, row in sorted(ranked)][:depth]


def finder(num_items=30):
    items = np.random.default_rng(0).normal(size=(num_items, 4)).astype(np.float32)
    return Finder.now(ExactIndex(items), ServingPlan(PromptPlan()), None, None)


def asked(**more):
    return Asked(EngineRequest(History((1, 2)), 5, (1, 2), **more), np.ones((1, 4), dtype=np.float32))


def test_a_list_does_not_depend_on_who_else_is_in_the_batch():
    alone, own = finder().find([asked()]), asked()
    together = finder().find([asked(), own, asked()])
    assert np.array_equal(together.rows[1, :, :5], alone.rows[0, :, :5])


def test_no_search_goes_deeper_than_there_are_items():
    assert finder(3).find([asked()]).rows.shape == (1, 1, 3)


@pytest.mark.parametrize("rules", [ListRules(filter='{"a":1}'), ListRules(caps=(Cap("author", 1),))])
def test_rules_without_the_items_they_are_about_are_refused(rules):
    own = asked(rules=rules)
    with pytest.raises(BadRequest, match="this engine takes no filter, caps, boosts or diversity"):
        finder().lists([own], finder().find([own]))
