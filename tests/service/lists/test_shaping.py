"""Lists chosen by rules, on real bundles: caps, boosts and diversity hold, quotas stay."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from model.attributes.filters import canonical
from model.records import History
from model.rules import Boost, Cap, ListRules
from service.engine.loading import load_arm
from service.engine.messages import EngineRequest
from service.lists.fill import complete

ARMS = pytest.mark.parametrize("arm", ["recgpt", "comirec"])
HISTORY = History((3, 40, 77, 120))


@pytest.fixture(scope="module")
def arms(bundles):
    return {arm: load_arm(arm, bundles[arm], "cpu") for arm in ("recgpt", "comirec")}


def ask(loaded, limit=30, rules=None, **more):
    request = EngineRequest(HISTORY, limit, HISTORY.items, rules=rules or ListRules(), **more)
    [result] = loaded.compute.run([request])
    return result


def values(loaded, name, rows):
    return loaded.release.items.snapshot.groups(name, list(rows))


@ARMS
@pytest.mark.parametrize(("name", "most"), [("author", 1), ("author", 3), ("category", 5)])
def test_a_cap_holds_and_the_list_is_full(arms, arm, name, most):
    rows = ask(arms[arm], rules=ListRules(caps=(Cap(name, most),))).merged.rows.tolist()
    counts = Counter(value for own in values(arms[arm], name, rows) for value in own)
    assert len(rows) == len({*rows}) == 30
    assert max(counts.values()) <= most


@ARMS
def test_a_cap_that_never_binds_changes_nothing(arms, arm):
    free, capped = ask(arms[arm]).merged, ask(arms[arm], rules=ListRules(caps=(Cap("author", 10),))).merged
    for ours, theirs in zip(capped, free, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_cap_that_leaves_too_few_is_short_and_not_broken_by_filling(arms):
    rules = ListRules(caps=(Cap("language", 2),), filter=canonical({"language": {"exists": True}}))
    request = EngineRequest(HISTORY, 30, HISTORY.items, rules=rules)
    [result] = arms["recgpt"].compute.run([request])
    rows = complete(arms["recgpt"].release.items, result.merged, request).rows.tolist()
    assert Counter(values(arms["recgpt"], "language", rows)) == {(1,): 2, (2,): 2, (3,): 2}


def test_filled_places_are_capped_too(arms):
    rules, items = ListRules(caps=(Cap("author", 2),)), arms["recgpt"].release.items
    request = EngineRequest(HISTORY, 40, HISTORY.items, rules=rules)
    [result] = arms["recgpt"].compute.run([EngineRequest(HISTORY, 5, HISTORY.items, rules=rules)])
    rows = complete(items, result.merged, request).rows.tolist()
    assert len({*rows}) == 40
    assert max(Counter(values(arms["recgpt"], "author", rows)).values()) <= 2


def test_quotas_hold_under_a_cap(arms):
    sources = ask(arms["recgpt"], 10, ListRules(caps=(Cap("author", 1),))).merged.sources.tolist()
    assert sources == [0] * 7 + [1] * 3


@ARMS
def test_a_boost_brings_items_up_and_its_opposite_down(arms, arm):
    english = canonical({"language": "en"})
    counts = []
    for weight in (-1.0, None, 1.0):
        rules = ListRules(boosts=(Boost(weight, english),)) if weight else ListRules()
        rows = ask(arms[arm], rules=rules).merged.rows.tolist()
        counts.append(sum(own == (2,) for own in values(arms[arm], "language", rows)))
    assert counts[0] < counts[1] < counts[2]


def test_a_decay_halves_with_each_half_life_and_bounds_what_it_adds(arms):
    rules = ListRules(boosts=(Boost(1.0, None, "uploaded", 50_000.0, 299_000.0),))
    boosted = ask(arms["comirec"], 300, rules).merged
    score = dict(zip(boosted.rows.tolist(), boosted.scores.tolist(), strict=True))
    free = ask(arms["comirec"], 300).merged
    scores = dict(zip(free.rows.tolist(), free.scores.tolist(), strict=True))
    # every item is among the hits here, so each source's best score is the same before the boost
    gained = {row: score[row] - scores[row] for row in score}
    newest, older = gained[300], gained[250]
    assert older == pytest.approx(newest / 2, rel=1e-3)
    assert max(gained.values()) == pytest.approx(newest, rel=1e-3)


def test_diversity_makes_lists_less_alike_and_keeps_the_first_item(arms):
    loaded = arms["comirec"]

    def likeness(rows):
        vectors = loaded.compute.served.exact.gather(rows)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.mean([first @ second for first, second in combinations(vectors, 2)])

    lists = [ask(loaded, 20, ListRules(diversity=share)).merged.rows for share in (0.0, 0.3, 0.9)]
    assert likeness(lists[0]) > likeness(lists[1]) > likeness(lists[2])
    assert len({rows[0] for rows in lists}) == 1
    assert all(len({*rows.tolist()}) == 20 for rows in lists)


@ARMS
def test_rules_of_others_in_a_batch_change_nothing(arms, arm):
    rules = [
        ListRules(),
        ListRules(filter=canonical({"language": "de"})),
        ListRules(caps=(Cap("author", 1),)),
        ListRules(diversity=0.5, filter=canonical({"is_live": False})),
        ListRules(boosts=(Boost(0.5, canonical({"language": "zh"})),)),
    ]
    requests = [EngineRequest(HISTORY, 10 + n, HISTORY.items, rules=own) for n, own in enumerate(rules * 2)]
    for request, result in zip(requests, arms[arm].compute.run(requests), strict=True):
        [alone] = arms[arm].compute.run([request])
        assert result.merged.rows.tolist() == alone.merged.rows.tolist()
        assert result.merged.scores.tolist() == alone.merged.scores.tolist()


@ARMS
def test_reasons_name_the_history_and_the_place_among_the_hits(arms, arm):
    result = ask(arms[arm], 20, explain=True)
    reasons, merged = result.reasons, result.merged
    assert reasons.similar.shape == reasons.shares.shape == (20, 3)
    assert {*reasons.similar.ravel().tolist()} <= {0, *HISTORY.items}
    assert (np.diff(reasons.shares, axis=1) <= 0).all()
    assert (reasons.shares.sum(1) <= 1 + 1e-6).all()
    own = reasons.ranks[np.arange(20), merged.sources]
    assert (own > 0).all()
    assert own[0] == 1


def test_an_empty_history_has_no_similar_items(arms):
    [result] = arms["recgpt"].compute.run([EngineRequest(History(()), 5, explain=True)])
    assert not result.reasons.similar.any()
