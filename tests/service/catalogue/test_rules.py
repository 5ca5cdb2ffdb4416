"""Rules are checked against the attributes that a catalogue has, before anything is computed."""

import numpy as np
import pytest

from model.attributes.filters import canonical
from model.catalogue import Catalogue, IdMap
from model.rules import NO_RULES, Boost, Cap, ListRules
from service.catalogue.rules import check_rules
from service.errors import BadRequest

ENGLISH = canonical({"language": "en"})


@pytest.mark.parametrize(
    "rules",
    [
        NO_RULES,
        ListRules(filter=ENGLISH, caps=(Cap("author", 2), Cap("category", 3), Cap("is_live", 1))),
        ListRules(boosts=(Boost(0.5, ENGLISH), Boost(1, None, "uploaded", 10, 0), Boost(1, None, "duration_s", 1, 0))),
    ],
)
def test_rules_of_attributes_that_are_there_are_taken(tiny, rules):
    check_rules(rules, tiny.catalogue)


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (ListRules(filter=canonical({"autor": 7})), "no attribute 'autor'; there are author, category"),
        (ListRules(filter=canonical({"author": "7"})), "author: it holds integers, so ask for such values"),
        (ListRules(filter=canonical({"language": {"gt": 5}})), "language: gt needs numbers, and it holds text"),
        (ListRules(caps=(Cap("autor", 1),)), "no attribute 'autor'"),
        (ListRules(caps=(Cap("duration_s", 1),)), "duration_s: a cap counts equal values, and it holds numbers"),
        (ListRules(boosts=(Boost(1, canonical({"autor": 1})),)), "no attribute 'autor'"),
        (ListRules(boosts=(Boost(1, None, "language", 1, 0),)), "language: a decay needs numbers, and it holds text"),
        (
            ListRules(boosts=(Boost(1, None, "category", 1, 0),)),
            "a decay needs numbers, and it holds lists of",
        ),
    ],
)
def test_rules_that_the_attributes_do_not_allow_are_refused(tiny, rules, sentence):
    with pytest.raises(BadRequest) as refused:
        check_rules(rules, tiny.catalogue)
    assert sentence in str(refused.value)


def test_a_catalogue_without_attributes_says_where_they_come_from():
    bare = Catalogue(IdMap.of([1]), IdMap.of([1]), np.ones(1, dtype=np.int64))
    check_rules(ListRules(diversity=0.5), bare)
    with pytest.raises(BadRequest, match="the bundle has no attributes of items; give `recall prepare` a table"):
        check_rules(ListRules(caps=(Cap("author", 1),)), bare)
