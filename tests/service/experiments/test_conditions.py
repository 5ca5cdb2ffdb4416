"""Conditions may ask for ids as text and for whatever a request names, however deep, and for nothing else."""

import pytest

from service.experiments.conditions import unknown_attribute


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
