"""Filters against the same conditions in plain Python, item by item; and what is no filter."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.attributes.filters import canonical, parse_filter
from model.attributes.table import Attributes, BadAttribute

ITEMS = [
    {"author": 7, "tags": [1, 2], "words": ["a"], "language": "en", "seconds": 5.0, "live": True},
    {"author": 9, "tags": [], "words": ["b", "a"], "language": "de", "seconds": None, "live": False},
    {"author": None, "tags": [2, 3], "words": None, "language": None, "seconds": 60.0, "live": None},
    {"author": 2**62, "tags": None, "words": [], "language": "", "seconds": 59.5, "live": True},
    {"author": 7, "tags": [3], "words": ["ü"], "language": "en", "seconds": -1.0, "live": False},
]
SCHEMA = {
    "author": pl.Int64,
    "tags": pl.List(pl.Int64),
    "words": pl.List(pl.String),
    "language": pl.String,
    "seconds": pl.Float64,
    "live": pl.Boolean,
}
TABLE = Attributes(pl.DataFrame(ITEMS, schema=SCHEMA))
VALUES = {
    "author": st.sampled_from([7, 9, 2**62, 5]),
    "tags": st.sampled_from([1, 2, 3, 4]),
    "words": st.sampled_from(["a", "b", "ü", "z"]),
    "language": st.sampled_from(["en", "de", "", "fr"]),
    "live": st.booleans(),
}
MEMBERS = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(["in", "not_in"]), st.lists(VALUES[name], max_size=3))
)
RANGES = st.tuples(
    st.sampled_from(["author", "seconds"]),
    st.sampled_from(["gt", "gte", "lt", "lte"]),
    st.sampled_from([-1, 5, 7, 59.5, 60]),
)
EXISTS = st.tuples(st.sampled_from(sorted(SCHEMA)), st.just("exists"), st.booleans())
CONDITIONS = st.one_of(MEMBERS, RANGES, EXISTS).map(lambda own: {own[0]: {own[1]: own[2]}})
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"or": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=6,
)


def holds(item, body):
    return all(_holds_entry(item, name, asked) for name, asked in body.items())


def _holds_entry(item, name, asked):
    if name == "not":
        return not holds(item, asked)
    if name in ("and", "or"):
        return (all if name == "and" else any)(holds(item, part) for part in asked)
    value = item[name]
    own = value if isinstance(value, list) else [] if value is None else [value]
    [(operator, operand)] = asked.items()
    match operator:
        case "in":
            return bool({*own} & {*operand})
        case "not_in":
            return not {*own} & {*operand}
        case "exists":
            return bool(own) is operand
    compare = {"gt": float.__gt__, "gte": float.__ge__, "lt": float.__lt__, "lte": float.__le__}[operator]
    return bool(own) and compare(float(own[0]), float(operand))


def passing(body, table=TABLE):
    parsed = parse_filter(canonical(body))
    parsed.check(table)
    return parsed.allowed(table).tolist()


@given(FILTERS)
def test_a_filter_is_its_conditions_item_by_item(body):
    assert passing(body) == [holds(item, body) for item in ITEMS]


def test_a_value_alone_asks_for_equality_and_all_keys_hold():
    assert passing({"language": "en", "live": True}) == [True, False, False, False, False]
    assert passing({"seconds": {"gte": 5, "lt": 60}}) == [True, False, False, True, False]


@given(FILTERS)
def test_attributes_of_single_items_answer_like_a_table(body):
    items = [{name: value for name, value in item.items() if value is not None} for item in ITEMS]
    assert passing(body, Attributes.of_items(TABLE.types, items)) == passing(body)


def test_a_saved_table_answers_as_before(tmp_path):
    TABLE.save(tmp_path / "items.parquet")
    read = Attributes.load(tmp_path / "items.parquet")
    assert read.types == TABLE.types
    assert passing({"words": {"in": ["a", "ü"]}}, read) == passing({"words": {"in": ["a", "ü"]}})


def test_the_order_of_keys_makes_no_other_filter():
    assert canonical({"live": True, "author": 7}) == canonical({"author": 7, "live": True})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "a filter is an object"),
        ({"colour": 1}, "no attribute 'colour'; there are author"),
        ({"author": "7"}, "author: it holds integers"),
        ({"author": 7.0}, "author: it holds integers"),
        ({"author": True}, "author: it holds integers"),
        ({"live": 1}, "live: it holds true or false"),
        ({"language": {"gt": 3}}, "language: gt needs numbers"),
        ({"tags": {"gt": 3}}, "tags: gt needs numbers"),
        ({"author": {"like": 3}}, "author.like: a condition is one of in"),
        ({"author": {}}, "author: a condition is one of in"),
        ({"author": None}, "author.in: a list of values"),
        ({"author": {"in": 3}}, "author.in: a list of values"),
        ({"author": {"in": [*range(1001)]}}, "author.in: at most 1000 values"),
        ({"seconds": {"gt": "3"}}, "seconds.gt: a number"),
        ({"seconds": {"gt": float("inf")}}, "a number of a filter is finite"),
        ({"seconds": {"gt": 10**400}}, "seconds.gt: a number"),
        ({"author": {"lte": -(10**400)}}, "author.lte: a number"),
        ({"seconds": {"exists": 1}}, "seconds.exists: true or false"),
        ({"and": []}, "and: a list of filters"),
        ({"or": {"author": 7}}, "or: a list of filters"),
        ({"not": [1]}, "a filter is an object"),
        ({"and": [{"author": 7}] * 33}, "at most 32 conditions"),
    ],
)
def test_what_is_no_filter_is_refused_in_one_sentence(body, sentence):
    with pytest.raises(BadAttribute) as refused:
        passing(body)
    assert str(refused.value).startswith(sentence) or sentence in str(refused.value)


def test_a_deep_filter_is_refused():
    body = {"author": 7}
    for _ in range(8):
        body = {"not": body}
    with pytest.raises(BadAttribute, match="at most 8 deep"):
        canonical(json.loads(json.dumps(body)))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"not": [1]}, "cannot be called 'not'"),
        ({"a b": [1]}, "cannot be called 'a b'"),
        ({"x": [{"y": 1}]}, "the attribute x is of the type Struct"),
        ({f"a{n}": [1] for n in range(65)}, "65 attributes; there may be 64"),
    ],
)
def test_columns_that_are_no_attributes_are_refused(columns, sentence):
    with pytest.raises(BadAttribute, match=sentence):
        Attributes(pl.DataFrame(columns))


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"author": "x"}, "author: it holds integers"),
        ({"tags": 1}, "tags: it holds lists of integers"),
        ({"tags": [*range(65)]}, "tags: at most 64 values"),
        ({"size": 1}, "no attribute 'size'"),
        ({"author": 2**63}, "author: it holds integers, finite and of 64 bits"),
        ({"tags": [1, -(2**63) - 1]}, "tags: it holds lists of integers, finite and of 64 bits"),
        ({"seconds": 10**400}, "seconds: it holds numbers, finite and of 64 bits"),
        ({"seconds": float("nan")}, "seconds: it holds numbers, finite and of 64 bits"),
    ],
)
def test_values_of_a_new_item_are_checked(item, sentence):
    TABLE.check({"author": 3, "seconds": 4, "tags": []})
    TABLE.check({"author": -(2**63), "seconds": 2**63, "language": "", "live": True})
    with pytest.raises(BadAttribute, match=sentence):
        TABLE.check(item)
