"""Conditions may ask for the user's id as text, however deep, and for nothing else."""

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


@pytest.mark.parametrize(
    ("condition", "part"),
    [
        ({"country": "de"}, "country"),
        ({"user_id": "7", "device": {"$exists": True}}, "device"),
        ({"$or": [{"user_id": "7"}, {"$and": [{"premium": True}]}]}, "premium"),
        ({"$not": {"age": {"$gt": 18}}}, "age"),
        ({"$not": {"$not": {"browser": "x"}}}, "browser"),
    ],
)
def test_any_other_attribute_is_named(condition, part):
    assert unknown_attribute(condition) == part


@pytest.mark.parametrize("value", [7, True, None, ["7", 8], {"$in": [7]}, {"$gt": 5}, {"$not": {"$eq": 7}}])
def test_ids_are_compared_as_text(value):
    assert unknown_attribute({"user_id": value}) == "user_id that is no text"


@pytest.mark.parametrize("key", ["$or", "$not"])
def test_an_operator_without_its_parts_is_no_operator(key):
    assert unknown_attribute({key: "user_id"}) == key
