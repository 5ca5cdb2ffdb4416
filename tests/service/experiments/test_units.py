"""Whom an assignment is for: users, sessions of the anonymous, requests whose attributes a condition chooses."""

import json
from collections import Counter

import pytest
from growthbook.core import chooseVariation, gbhash, getBucketRanges

from service.errors import ConfigurationError
from service.experiments.assignment import Assigner, Reason
from service.experiments.conditions import RequestFacts

ARMS = ("comirec", "recgpt", "sasrec")
SPLIT = {
    "key": "exp",
    "phase": "1",
    "hashAttribute": "user_id",
    "hashVersion": 2,
    "variations": ["comirec", "recgpt"],
    "meta": [{"key": "control"}, {"key": "treatment"}],
}
FALLS_BACK = SPLIT | {"fallbackAttribute": "session_id"}
BY_SESSION = SPLIT | {"hashAttribute": "session_id"}


def assigner(*rules):
    payload = {"features": {"recall_arm": {"defaultValue": "sasrec", "rules": list(rules)}}}
    return Assigner.from_features(json.loads(json.dumps(payload)), ARMS)


def of_session(session, **attributes):
    return RequestFacts(session=session, attributes=attributes)


def hashed(unit):
    return SPLIT["variations"][chooseVariation(gbhash("exp", unit, 2), getBucketRanges(2, 1, None))]


def test_the_anonymous_are_assigned_by_their_session_where_the_rule_falls_back():
    ours = assigner(FALLS_BACK)
    chosen = [ours.assign(None, facts=of_session(f"s-{n}")) for n in range(500)]
    assert [(each.arm, each.by) for each in chosen] == [(hashed(f"s-{n}"), "session_id") for n in range(500)]
    assert {each.reason for each in chosen} == {Reason.EXPERIMENT}


def test_a_user_is_assigned_by_the_user_whatever_the_session():
    ours = assigner(FALLS_BACK)
    chosen = {ours.assign("user", facts=of_session(session)) for session in (None, "a", "b")}
    assert [(each.arm, each.by) for each in chosen] == [(hashed("user"), "user_id")]


def test_a_rule_by_session_knows_the_session_alone():
    ours = assigner(BY_SESSION)
    chosen = {ours.assign(user, facts=of_session("s-1")) for user in (None, "a", "b")}
    assert [(each.arm, each.by) for each in chosen] == [(hashed("s-1"), "session_id")]


@pytest.mark.parametrize(
    ("rule", "user", "session"),
    [(SPLIT, None, "s-1"), (SPLIT, None, None), (FALLS_BACK, None, None), (BY_SESSION, "user", None)],
)
def test_who_has_no_unit_gets_the_default_arm_and_is_told(rule, user, session):
    chosen = assigner(rule).assign(user, facts=of_session(session))
    assert (chosen.arm, chosen.reason, chosen.in_experiment) == ("sasrec", Reason.NO_UNIT, False)


def test_a_condition_on_attributes_of_the_request_chooses():
    ours = assigner(SPLIT | {"condition": {"country": {"$in": ["AT", "DE"]}, "app": {"$vgte": "2.10.0"}}})
    asked = [("AT", "2.10.1"), ("AT", "2.9.9"), ("FR", "3.0.0"), ("DE", "11.0.0")]
    reasons = [ours.assign("user", facts=of_session(None, country=c, app=a)).reason for c, a in asked]
    assert reasons == ["experiment", "not_in_experiment", "not_in_experiment", "experiment"]
    assert ours.assign("user").reason is Reason.NOT_IN_EXPERIMENT


def test_an_attribute_cannot_stand_for_the_user():
    facts = RequestFacts(attributes={"user_id": "other", "session_id": "other"})
    assert assigner(SPLIT).assign("user", facts=facts).arm == hashed("user")


def test_condition_that_the_user_exists_holds_for_users_alone():
    ours = assigner(BY_SESSION | {"condition": {"user_id": {"$exists": True}}})
    assert ours.assign("user", facts=of_session("s")).in_experiment
    assert not ours.assign(None, facts=of_session("s")).in_experiment


def test_changed_unit_is_refused_within_a_phase():
    for changed in (FALLS_BACK, BY_SESSION):
        with pytest.raises(ConfigurationError, match="within phase '1'"):
            assigner(changed).check_follows(assigner(SPLIT))


def test_sessions_split_evenly_beside_the_users():
    ours = assigner(FALLS_BACK)
    users = Counter(ours.assign(f"u{n}").arm for n in range(2000))
    sessions = Counter(ours.assign(None, facts=of_session(f"s{n}")).arm for n in range(2000))
    assert all(900 < counts[arm] < 1100 for counts in (users, sessions) for arm in ("comirec", "recgpt"))
