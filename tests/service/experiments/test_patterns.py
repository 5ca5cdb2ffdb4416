"""Patterns of conditions whose time grows out of hand are found, wherever they stand; ordinary ones are not."""

import pytest

from service.experiments.conditions import slow_pattern
from service.experiments.rules import check_condition

SLOW = [
    "(a+)+$",
    "^(a*)*b",
    "(?:x|y{2,})*z",
    "(ab|cd)+e",
    "((a{1,5}){2})+",
    "(?=(a+)+)b",
    "(?>a+)*.*.*",
    ".*a.*b.*c",
    "(x)?(?(1)(a+)+$|b)",
    "[",
    "(" * 5000,
]


@pytest.mark.parametrize("pattern", SLOW, ids=range(len(SLOW)))
def test_what_may_take_too_long_or_is_no_pattern_is_named(pattern):
    assert slow_pattern({"app": {"$regex": pattern}}) == pattern
    deep = {"$or": [{"country": "AT"}, {"$not": {"app": {"$not": {"$regex": pattern}}}}]}
    assert slow_pattern(deep) == pattern


@pytest.mark.parametrize(
    "pattern", ["^staff-", "^[a-z]+-[0-9]+$", "^(ios|android)$", r"^\d{1,3}(\.\d)?$", "beta|canary", "^.*@example", ""]
)
def test_ordinary_patterns_are_taken(pattern):
    assert slow_pattern({"app": {"$regex": pattern}}) is None
    check_condition({"app": {"$regex": pattern}}, "the rule")


def test_a_rule_with_such_a_pattern_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"the rule has the pattern '\(a\+\)\+\$', which may take too long"):
        check_condition({"app": {"$regex": "(a+)+$"}}, "the rule")
    assert slow_pattern({"app": "(a+)+$", "$and": [{"note": ["(a+)+"]}]}) is None
