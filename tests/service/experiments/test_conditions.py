"""Conditions may ask for ids as text and for whatever a request names, however deep, and for nothing else."""

from itertools import product

import pytest
from growthbook.core import evalCondition

from service.experiments.conditions import told_apart, unknown_attribute


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"user_id": "7"},
        {"user_id": ["7", "8"]},
        {"user_id": {"$in": ["7", "8"]}},
        {"user_id": {"$exists": True}},
        {"user_id": {"$not": {"$regex": "^staff-"}}},
        {"$or": [{"user_id": "7"}, {"$not": {"user_id": {"$ne": "8"}}}]},
        {"$and": [{"$nor": [{"user_id": "7"}]}, {"user_id": {"$nin": []}}]},
    ],
)
def test_the_users_id_may_be_asked_in_every_form(condition):
    assert unknown_attribute(condition) is None


@pytest.mark.parametrize("condition", [{"country": "de"}, {"age": {"$gt": 18}}, {"$not": {"is_new": True}}])
def test_whatever_a_request_may_name_may_be_asked(condition):
    assert unknown_attribute(condition) is None


@pytest.mark.parametrize(
    ("condition", "part"),
    [
        ({"country.code": "de"}, "country.code"),
        ({"user_id": "7", "2nd": {"$exists": True}}, "2nd"),
        ({"$or": [{"user_id": "7"}, {"$and": [{"a.b": True}]}]}, "a.b"),
        ({"country": {"$inGroup": "europe"}}, "country $inGroup"),
        ({"$not": {"$not": {"segment": {"$notInGroup": "new"}}}}, "segment $notInGroup"),
        ({"session_id": 7}, "session_id that is no text"),
    ],
)
def test_what_no_request_has_is_named(condition, part):
    assert unknown_attribute(condition) == part


@pytest.mark.parametrize("value", [7, True, None, ["7", 8], {"$in": [7]}, {"$gt": 5}, {"$not": {"$eq": 7}}])
def test_ids_are_compared_as_text(value):
    assert unknown_attribute({"user_id": value}) == "user_id that is no text"


@pytest.mark.parametrize("key", ["$or", "$not"])
def test_an_operator_without_its_parts_is_no_operator(key):
    assert unknown_attribute({key: "user_id"}) == key


APART = [
    ({"country": "AT"}, {"country": "DE"}, False),
    ({"country": "AT"}, {"country": {"$in": ["DE", "CH"]}}, False),
    ({"country": "AT"}, {"country": {"$ne": "AT"}}, False),
    ({"country": {"$eq": "AT"}}, {"country": {"$regex": "^D"}}, False),
    ({"is_new": True}, {"is_new": False}, False),
    ({"country": {"$in": ["AT", "CH"]}}, {"country": {"$in": ["DE"]}}, True),
    ({"country": {"$in": ["AT", "CH"]}}, {"country": {"$nin": ["AT", "CH", "DE"]}}, True),
    ({"age": {"$lt": 18}}, {"age": {"$gte": 18}}, False),
    ({"age": {"$gt": 60, "$lte": 80}}, {"age": {"$gt": 18, "$lte": 60}}, False),
    ({"age": {"$in": [1, 2]}}, {"age": {"$gt": 2}}, True),
    ({"app": {"$vlt": "2.10.0"}}, {"app": {"$vgte": "2.10.0"}}, False),
    ({"$and": [{"age": {"$lt": 18}}, {"country": "AT"}]}, {"country": "DE"}, False),
    ({"country": {"$in": ["AT"]}, "age": {"$lt": 18}}, {"country": {"$in": ["DE"]}, "age": {"$gt": 18}}, False),
]
TOGETHER = [
    (None, None),
    ({}, {"country": "AT"}),
    ({"country": "AT"}, {"language": "de"}),
    ({"country": {"$in": ["AT", "DE"]}}, {"country": {"$in": ["DE", "CH"]}}),
    ({"country": {"$nin": ["AT"]}}, {"country": {"$nin": ["DE"]}}),
    ({"age": {"$lte": 18}}, {"age": {"$gte": 18}}),
    ({"age": {"$lt": 18}}, {"age": {"$vgte": "18"}}),
    ({"country": {"$all": ["AT"]}}, {"country": {"$all": ["DE"]}}),
    # not proven, although no request meets both
    ({"$or": [{"age": 1}, {"age": 2}]}, {"age": 3}),
    ({"country": {"$not": {"$eq": "AT"}}}, {"$not": {"country": {"$ne": "AT"}}}),
]
VALUES = [None, True, False, "AT", "DE", "CH", "FR", "de", "1.0", "2.10.0", "3", 0, 1, 2, 3, 17.5, 18, 60, 70]


@pytest.mark.parametrize(("first", "second", "is_single"), APART)
def test_simple_conditions_are_told_apart(first, second, is_single):
    for left, right in ((first, second), (second, first)):
        assert told_apart(left, right).is_single is is_single


@pytest.mark.parametrize(("first", "second"), TOGETHER)
def test_what_is_not_plain_may_be_met_together(first, second):
    assert told_apart(first, second) is None
    assert told_apart(second, first) is None


@pytest.mark.parametrize(("first", "second", "is_single"), APART)
def test_no_request_meets_two_that_are_told_apart(first, second, is_single):
    """The SDK itself evaluates all that a request may name, lists too where the proof holds for them."""
    lists = [] if is_single else [[*pair] for pair in product(VALUES, VALUES)]
    for value, other in product([*VALUES, *lists], ["AT", 17, None]):
        facts = dict.fromkeys(("country", "age", "app", "is_new"), other)
        facts |= {told_apart(first, second).attribute: value}
        assert not (evalCondition(facts, first) and evalCondition(facts, second)), facts
