"""Bodies to records: what is refused, in which words, and what stays out of them."""

import dataclasses
import math

import pytest

from model.rules import NO_RULES, ListRules
from service.errors import BadRequest, MalformedBody, Overloaded, UnknownArm
from service.http import codec
from service.http.schemas import FeedbackRequest, RecallRequest, ReloadBody
from service.settings import Settings

SETTINGS = Settings(max_top_n=10, max_history=3, max_batch_requests=2, request_timeout_ms=500)
NOW_MS, DAY_MS = 1_800_000_000_000, 86_400_000


def body(**fields):
    return RecallRequest(**fields)


@pytest.mark.parametrize("data", [b"", b"{", b"[1,", b"\xff\xfe", b'{"top_n": 1} x', b"\x00"])
def test_what_is_no_json_is_said_so(data):
    with pytest.raises(MalformedBody, match="the body is not valid JSON"):
        codec.parse(RecallRequest, data)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\xa5top_n"])
def test_what_is_no_message_pack_is_said_so(data):
    with pytest.raises(MalformedBody, match="the body is not valid MessagePack"):
        codec.parse_packed(RecallRequest, data)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"top_n": "5"}, "top_n: Input should be a valid integer"),
        ({"top_n": True}, "top_n: Input should be a valid integer"),
        ({"top_n": 0}, "top_n: Input should be greater than or equal to 1"),
        ({"secret-word": 1}, "secret-word: Extra inputs are not permitted"),
        ({"history": [1.5]}, "history.0: an id is a 64-bit integer or a string of 1 to 128 characters"),
        ({"history": [1, 2**63]}, "history.1: an id is a 64-bit integer or a string"),
        ({"history": ["a\n"]}, "history.0: an id is a 64-bit integer or a string"),
        ({"exclude": [""]}, "exclude.0: an id is a 64-bit integer or a string"),
        ({"diversity": 2}, "diversity: Input should be less than or equal to 1"),
        ({"caps": {"author": 0}}, "caps.author: Input should be greater than or equal to 1"),
    ],
)
def test_a_refusal_names_the_place_and_the_rule(fields, sentence):
    with pytest.raises(BadRequest) as refused:
        codec.parse_object(RecallRequest, fields)
    assert str(refused.value).startswith(sentence)


def test_a_refusal_never_repeats_what_was_sent():
    with pytest.raises(BadRequest) as refused:
        codec.parse_object(RecallRequest, {"user_id": "secret" * 100})
    assert "secret" not in str(refused.value)


def test_a_name_that_is_endless_is_cut():
    with pytest.raises(BadRequest) as refused:
        codec.parse_object(RecallRequest, {"x" * 10_000: 1})
    assert len(str(refused.value)) <= codec.MAX_MESSAGE


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"top_n": 11}, "top_n: at most 10"),
        ({"history": [1, 2, 3, 4]}, "history: at most 3 ids; send the newest"),
        ({"exclude": [1, 2, 3, 4]}, "exclude: at most 3 ids; send the newest"),
    ],
)
def test_lists_longer_than_this_service_takes_are_refused(fields, sentence):
    codec.check_bounds(body(top_n=10, history=[1, 2, 3], exclude=[1, 2, 3]), SETTINGS)
    with pytest.raises(BadRequest, match=sentence):
        codec.check_bounds(body(**{"top_n": 10} | fields), SETTINGS)


def test_a_batch_has_a_bound_of_its_own():
    codec.check_batch_size("requests", [1, 2], SETTINGS)
    with pytest.raises(BadRequest, match="requests: at most 2"):
        codec.check_batch_size("requests", [1, 2, 3], SETTINGS)


class Asked:
    """A request with one header or none."""

    def __init__(self, text=None):
        self.headers = {} if text is None else {"x-request-timeout-ms": text}


@pytest.mark.parametrize(("text", "seconds"), [(None, 0.5), ("100", 0.1), ("0.5", 0.0005), ("9999", 0.5), ("inf", 0.5)])
def test_a_client_may_wait_for_less_and_never_for_more(text, seconds):
    deadline = codec.deadline_of(Asked(text), 100.0, SETTINGS)
    assert (deadline.at, deadline.is_named) == (pytest.approx(100 + seconds), text is not None)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "", "nan"])
def test_a_timeout_is_a_number_above_zero(text):
    with pytest.raises(BadRequest, match="X-Request-Timeout-Ms: a number above 0"):
        codec.deadline_of(Asked(text), 100.0, SETTINGS)


def feedback(**more):
    return FeedbackRequest(user_id="u", item_id=1, action="play", **more)


@pytest.mark.parametrize(
    "more",
    [{}, {"ts_ms": NOW_MS - 6 * DAY_MS}, {"ts_ms": NOW_MS + 60_000}, {"watch_time_ms": 100_000, "duration_ms": 1000}],
)
def test_plausible_actions_are_taken(more):
    codec.check_plausible(feedback(**more), NOW_MS, SETTINGS)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"ts_ms": NOW_MS // 1000}, "days ago; it is milliseconds since 1970"),
        ({"ts_ms": NOW_MS * 1000}, "ts_ms: in the future; it is milliseconds since 1970"),
        ({"watch_time_ms": 100_001, "duration_ms": 1000}, "watch_time_ms: more than 100 times duration_ms"),
        ({"watch_time_ms": 1, "duration_ms": 0}, "watch_time_ms: more than 100 times duration_ms"),
    ],
)
def test_seconds_for_milliseconds_are_found_out(more, sentence):
    with pytest.raises(BadRequest, match=sentence):
        codec.check_plausible(feedback(**more), NOW_MS, SETTINGS)


@pytest.mark.parametrize("fields", [{}, {"boost": [{"weight": 0, "filter": {"a": 1}}]}, {"diversity": 0}])
def test_rules_that_change_nothing_are_none(fields):
    assert codec.to_rules(body(**fields)) is NO_RULES


def test_each_rule_alone_is_one():
    bodies = {
        "filter": {"filter": {"a": 1}},
        "caps": {"caps": {"a": 1}},
        "boosts": {"boost": [{"weight": 1, "filter": {"a": 1}}]},
        "diversity": {"diversity": 0.5},
        "outcome": {"outcome": "like"},
    }
    # a new field of the record needs its body here, and its part in to_rules
    assert {*bodies} == {field.name for field in dataclasses.fields(ListRules)}
    for name, parts in bodies.items():
        assert getattr(codec.to_rules(body(**parts)), name) != getattr(NO_RULES, name)


def test_equal_rules_are_equal_however_they_were_written():
    first = codec.to_rules(body(filter={"a": 1, "b": 2}, caps={"x": 1, "y": 2}))
    assert first == codec.to_rules(body(filter={"b": 2, "a": 1}, caps={"y": 2, "x": 1}))


@pytest.mark.parametrize(
    "boost",
    [
        {"weight": 1, "filter": {"a": 1}, "now": 5},
        {"weight": 1, "attribute": "uploaded", "now": 5},
        {"weight": 1, "attribute": "uploaded", "half_life": 5},
        {"weight": 1},
    ],
)
def test_a_boost_is_by_filter_or_by_age(boost):
    with pytest.raises(BadRequest, match="boost: either a filter, or attribute, half_life and now"):
        codec.to_rules(body(boost=[boost]))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"filter": {}}, "filter: a filter is an object of attributes and conditions, and not empty"),
        ({"filter": {"a": {"gt": math.inf}}}, "filter: a number of a filter is finite"),
        ({"boost": [{"weight": 1, "filter": {"or": []}}]}, "boost.filter: or: a list of filters"),
    ],
)
def test_a_filter_that_is_none_is_refused_where_it_stands(fields, sentence):
    with pytest.raises(BadRequest, match=sentence):
        codec.to_rules(body(**fields))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rollback": True, "bundle": "new"}, "bundle: not together with rollback"),
        ({"promote": True, "rollback": True}, "promote: by itself"),
        ({"promote": True, "bundle": "new"}, "promote: by itself"),
        ({"canary": {"share": 0.1}, "rollback": True}, "canary: not together with rollback or promote"),
    ],
)
def test_a_reload_wishes_for_one_thing(fields, sentence):
    with pytest.raises(BadRequest, match=sentence):
        codec.to_reload(ReloadBody(arm="recgpt", **fields))


def test_a_problem_that_passes_says_when_to_come_again():
    passing, lasting = codec.problem(Overloaded("full"), "r1"), codec.problem(UnknownArm("no arm"), None)
    assert (passing.status_code, passing.headers["retry-after"]) == (429, codec.RETRY_AFTER_S)
    assert (lasting.status_code, "retry-after" in lasting.headers) == (404, False)


def test_ids_are_listed_as_strings_where_the_settings_say_so():
    assert codec.listed_ids([1, "a"], SETTINGS) == [1, "a"]
    assert codec.listed_ids([1, "a"], Settings(string_ids=True)) == ["1", "a"]
