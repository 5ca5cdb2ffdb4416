"""Histories take what training calls positive: the same events, whoever applies the rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from model.data.positives import select_positives
from model.logs.feedback import read_feedback
from model.positive import PositiveRule
from service.consumer.files import EventFolder
from service.consumer.tables import TABLES
from service.experiments.feedback import Action, FeedbackEvent, HistoryRule

FEEDBACK = next(table for table in TABLES if table.name == "feedback")
RULES = [["watch:0.5"], ["like"], ["watch:2", "share", "comment"], []]


def event(action=Action.PLAY, item=1, watch_time_ms=None, duration_ms=None, **more):
    more = {"user": "u", "ts_ms": item} | more
    return FeedbackEvent(item=item, action=action, watch_time_ms=watch_time_ms, duration_ms=duration_ms, **more)


def taken(events, *rules, own=None):
    rule = HistoryRule(lambda: rules, own)
    return [event.item for event in events if rule.takes(event)]


times = st.none() | st.integers(0, 3000)
EVENTS = st.lists(st.tuples(st.sampled_from(Action), times, times), min_size=1, max_size=30)


@pytest.mark.parametrize("words", RULES, ids=lambda words: " or ".join(words) or "all")
@settings(max_examples=25)
@given(actions=EVENTS)
def test_a_history_is_the_users_row_in_the_training_data(tmp_path_factory, words, actions):
    """The same feedback through the event log, `recall prepare --positive`, and through the service's rule."""
    events = [event(action, item, watched, lasts) for item, (action, watched, lasts) in enumerate(actions, 1)]
    folder, rule = tmp_path_factory.mktemp("log"), PositiveRule.parse(words)
    files = EventFolder(folder)
    rows = [
        dict.fromkeys(FEEDBACK.schema)
        | {"stream_id": f"{own.item}-0", "user": own.user, "item": str(own.item), "action": own.action}
        | {"ts_ms": own.ts_ms, "watch_time_ms": own.watch_time_ms, "duration_ms": own.duration_ms}
        | {"event_id": own.event_id}
        for own in events
    ]
    files.write(FEEDBACK, rows)
    files.close()
    kept = taken(events, rule)
    if not kept:
        # there is nothing to train on, which prepare says
        return
    log, _ = read_feedback(folder)
    assert select_positives(log, rule).items.to_list() == kept


def test_plays_of_no_time_and_hides_are_in_no_history():
    assert taken([event(Action.HIDE), event(watch_time_ms=0), event(item=3, watch_time_ms=1)], None) == [3]


def test_where_arms_differ_an_event_counts_that_any_of_them_counts():
    events = [event(item=1, watch_time_ms=600, duration_ms=1000), event(Action.LIKE, 2), event(Action.SHARE, 3)]
    half, like = PositiveRule(0.5), PositiveRule(any_of=("like",))
    assert [taken(events, *rules) for rules in ([half], [like], [half, like])] == [[1], [2], [1, 2]]
    # a bundle that does not know its rule counts everything
    assert taken(events, half, None) == [1, 2, 3]


def test_a_setting_counts_in_place_of_the_bundles():
    events = [event(item=1, watch_time_ms=600, duration_ms=1000), event(Action.LIKE, 2)]
    assert taken(events, PositiveRule(0.5), own=PositiveRule(any_of=("like",))) == [2]
    assert taken(events, PositiveRule(0.5), own=PositiveRule()) == [1, 2]


def test_a_play_is_a_click():
    assert taken([event(item=1), event(Action.LIKE, 2)], PositiveRule(any_of=("click",))) == [1]


def test_a_bundle_that_comes_later_brings_its_rule():
    rules = [PositiveRule(0.5)]
    rule = HistoryRule(lambda: rules, None)
    assert not rule.takes(event())
    rules[0] = PositiveRule()
    assert rule.takes(event())


def test_sessions_have_no_history():
    anonymous = event(user="session_id||s", session="s")
    assert taken([anonymous, event(item=2, user="u", session="s")], None) == [2]


def test_the_log_says_what_histories_take():
    with capture_logs() as logged:
        HistoryRule(lambda: [PositiveRule(0.5, ("like",)), None], None)
    assert logged[0]["any_of"] == ["everything", "watch:0.5 or like"]
