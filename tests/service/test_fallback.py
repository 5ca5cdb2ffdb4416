"""The fallback: when it answers, and what an answer says that is less than it could be."""

import time

import numpy as np
import pytest

from model.catalogue import Catalogue, IdMap
from model.merging import Merged
from model.records import History, ServingPlan
from model.rules import ListRules
from service.engine.arms import Release
from service.engine.messages import EngineRequest, EngineResult
from service.errors import DeadlineExceeded, EngineFailed, Overloaded, StaleRelease
from service.fallback import NEAR_S, SHARE, filled, is_filled, reasons, shortfalls, turning_point
from service.stores.vector_codec import CachedVectors

COUNTS = np.array([1, 9, 5, 7, 3], dtype=np.int64)


@pytest.fixture
def release():
    catalogue = Catalogue(IdMap.of([10, 20, 30, 40, 50]), IdMap.of([1]), COUNTS)
    return Release("arm", "recgpt", "b", catalogue, ServingPlan(), "p", 5, None)


def result(rows=(), is_cheap=False):
    rows = np.array(rows, dtype=np.int64)
    merged = Merged(rows, np.ones(len(rows), dtype=np.float32), np.zeros(len(rows), dtype=np.int64))
    return EngineResult(CachedVectors(np.ones((1, 2)), np.zeros(0)), merged, {}, is_cheap=is_cheap)


@pytest.mark.parametrize(
    ("error", "left_s", "expected"),
    [
        (EngineFailed("x"), -1, True),
        (StaleRelease("x"), 60, False),
        (DeadlineExceeded("x"), 60, True),
        (DeadlineExceeded("x"), -1, False),
        (Overloaded("x"), 60, False),
    ],
)
def test_the_fallback_answers_where_the_engine_failed_or_there_is_time_to_say_less(error, left_s, expected):
    assert is_filled(error, time.monotonic() + left_s) is expected


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (result(), []),
        (result(is_cheap=True), ["one_step"]),
        (DeadlineExceeded("x"), ["deadline"]),
        (EngineFailed("x"), []),
    ],
)
def test_an_outcome_says_why_it_is_less(outcome, expected):
    assert shortfalls(outcome) == expected


@pytest.mark.parametrize(("left_s", "kept_s"), [(10, NEAR_S), (0.05, SHARE * 0.05)])
def test_a_long_deadline_leaves_a_moment_and_a_short_one_a_share(monkeypatch, left_s, kept_s):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    assert 1000 + left_s - turning_point(1000 + left_s) == pytest.approx(kept_s)


def test_without_a_deadline_or_behind_it_nothing_is_kept_back():
    past = time.monotonic() - 1
    assert turning_point(past) == past
    assert turning_point(float("inf")) == float("inf")


@pytest.mark.parametrize(
    ("request_", "answer", "expected"),
    [
        (EngineRequest(History((1,)), 5), result(), []),
        (EngineRequest(History(()), 5), result(), ["cold_start"]),
        (EngineRequest(History((1,)), 5, unknown=(99,)), result(), ["unknown_items"]),
        (EngineRequest(History(()), 5, unknown=(99,)), None, ["unknown_items", "cold_start", "fallback"]),
    ],
)
def test_a_request_says_why_its_answer_is_less(request_, answer, expected):
    assert reasons(request_, answer) == expected


def test_a_failed_engine_gives_the_popular_items_that_were_not_watched(release):
    degraded = []
    listed = filled(release, EngineRequest(History((2,)), 3, (2,)), None, degraded)
    assert listed.rows.tolist() == [4, 3, 5]
    assert listed.scores.tolist() == [0, 0, 0]
    assert degraded == ["filled"]


def test_a_list_that_is_full_is_left_as_it_is(release):
    degraded = []
    assert filled(release, EngineRequest(History(()), 2), result([5, 1]), degraded).rows.tolist() == [5, 1]
    assert degraded == []


def test_a_short_list_keeps_its_items_first(release):
    assert filled(release, EngineRequest(History(()), 4), result([5, 1]), []).rows.tolist() == [5, 1, 2, 4]


def test_rules_that_leave_fewer_are_told_apart_from_a_small_catalogue(release):
    fewer = ["filled", "rules_leave_fewer"]
    told = ((ListRules(), ["filled"]), (ListRules(outcome="like"), ["filled"]), (ListRules(diversity=0.1), fewer))
    for rules, expected in told:
        degraded = []
        listed = filled(release, EngineRequest(History(()), 9, rules=rules), result([5]), degraded)
        assert len(listed.rows) == 5
        assert degraded == expected
