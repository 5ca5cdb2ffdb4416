"""A query says by whom it is counted and what it can be a part of; hidden items leave it, and errors are outcomes."""

import asyncio

import pytest

from model.rules import Boost, Cap, ListRules
from service.errors import Overloaded
from service.queries import RecallQuery, outcome_of, without_hidden

QUERY = RecallQuery("r1", 42, top_n=5, forced="treatment", not_shown=True)


def test_users_are_counted_as_text():
    assert QUERY.unit == "42"
    assert RecallQuery("r1").unit is None


@pytest.mark.parametrize(
    ("query", "user"),
    [(QUERY, "42"), (RecallQuery("r1"), "r1"), (RecallQuery("r1", 42, in_force=True), None)],
)
def test_a_canary_is_chosen_by_the_user_or_by_the_request(query, user):
    assert query.canary_user == user


@pytest.mark.parametrize(
    "more", [{"rules": ListRules(diversity=0.1)}, {"explain": True}, {"min_catalogue": 3}, {"not_shown": True}]
)
def test_what_a_block_cannot_carry_makes_a_query_other_than_plain(more):
    assert RecallQuery("r1", 42).is_plain
    assert not RecallQuery("r1", 42, **more).is_plain


@pytest.mark.parametrize(
    ("rules", "can"),
    [
        (ListRules(), True),
        (ListRules(filter='{"a":1}', boosts=(Boost(1, '{"a":1}'),)), True),
        (ListRules(caps=(Cap("author", 1),)), False),
        (ListRules(diversity=0.1), False),
    ],
)
def test_rules_about_the_whole_list_are_not_interleaved(rules, can):
    assert RecallQuery("r1", rules=rules).can_interleave is can


def test_a_query_put_to_another_arm_shows_nobody_anything():
    pinned = QUERY.pinned_to("comirec")
    assert (pinned.pinned, pinned.forced, pinned.not_shown) == ("comirec", None, False)
    assert (pinned.user_id, pinned.top_n) == (42, 5)


def test_hidden_items_are_excluded_beside_those_that_were():
    query = RecallQuery("r1", exclude=(1,))
    [read] = without_hidden([query], [(2, 3)], [[]])
    assert read.exclude == (1, 2, 3)


def test_a_query_of_a_user_who_hides_nothing_stays_the_same_object():
    query, degraded = RecallQuery("r1"), []
    assert without_hidden([query], [()], [degraded])[0] is query
    assert degraded == []


def test_a_store_that_cannot_say_is_told():
    degraded = [[], []]
    without_hidden([RecallQuery("a"), RecallQuery("b")], [None, ()], degraded)
    assert degraded == [["hidden_unavailable"], []]


def test_of_many_one_error_does_not_end_the_others():
    async def answer(error=None):
        if error:
            raise error
        return "there"

    async def scenario():
        return await asyncio.gather(*(outcome_of(answer(error)) for error in (None, Overloaded("full"), None)))

    first, second, third = asyncio.run(scenario())
    assert (first, str(second), third) == ("there", "full", "there")
