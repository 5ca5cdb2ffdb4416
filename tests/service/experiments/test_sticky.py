"""Sticky buckets: what GrowthBook's own client does with the same file, users and store, over and over."""

import json
import random

import pytest
from growthbook import GrowthBook, InMemoryStickyBucketService

from service.errors import ConfigurationError
from service.experiments.assignment import Assigner, Reason, new_bucket
from service.experiments.conditions import RequestFacts, unit_key

ARMS = ("comirec", "recgpt", "sasrec")
RULE = {
    "key": "exp",
    "phase": "1",
    "hashAttribute": "user_id",
    "hashVersion": 2,
    "coverage": 0.6,
    "variations": ["comirec", "recgpt"],
    "weights": [0.5, 0.5],
    "meta": [{"key": "control"}, {"key": "treatment"}],
}


def feature(**changes):
    rule = {name: value for name, value in (RULE | changes).items() if value is not None}
    return {"recall_arm": {"defaultValue": "sasrec", "rules": [rule]}}


def assigner(**changes):
    return Assigner.from_features(json.loads(json.dumps({"features": feature(**changes)})), ARMS, has_buckets=True)


class Kept:
    """Buckets of units, as the service keeps them."""

    def __init__(self):
        self.buckets = {}

    def assign(self, ours, user, session=None):
        units = {"user_id": user, "session_id": session}
        keys = [unit_key(name, value) for name, value in units.items() if value and name in ours.bucket_units]
        kept = {key: self.buckets[key] for key in keys if key in self.buckets}
        chosen = ours.assign(user, facts=RequestFacts(session=session, kept=kept))
        if chosen.in_experiment and (bucket := new_bucket(chosen, units[chosen.by], kept)):
            self.buckets.setdefault(unit_key(chosen.by, units[chosen.by]), {}).update([bucket])
        return chosen


# a test over its life: coverage, weights, versions, a third arm, an arm that is gone, no stickiness, other units
STEPS = [
    {},
    {"coverage": 0.9},
    {"coverage": 0.2},
    {"weights": [0.1, 0.9], "coverage": 1},
    {"bucketVersion": 1, "weights": [0.9, 0.1]},
    {"bucketVersion": 1, "fallbackAttribute": "session_id"},
    {"bucketVersion": 2, "minBucketVersion": 2, "fallbackAttribute": "session_id"},
    {"bucketVersion": 2, "variations": ["comirec", "recgpt", "sasrec"], "weights": None, "meta": None},
    {"bucketVersion": 2, "variations": ["recgpt", "comirec"], "meta": [{"key": "treatment"}, {"key": "control"}]},
    {"bucketVersion": 2, "disableStickyBucketing": True, "seed": "other"},
    {"bucketVersion": 2, "seed": "other"},
    {"hashAttribute": "session_id", "bucketVersion": 2},
]


def ask_growthbook(service, settings, user, session):
    attributes = {name: value for name, value in (("user_id", user), ("session_id", session)) if value}
    theirs = GrowthBook(
        attributes=attributes,
        features=feature(**settings),
        sticky_bucket_service=service,
        sticky_bucket_identifier_attributes=["user_id", "session_id"],
    )
    try:
        return theirs.get_feature_value("recall_arm", "sasrec")
    finally:
        theirs.destroy()


def test_every_arm_and_every_bucket_is_that_of_growthbooks_client():
    random.seed(3)
    ours, theirs = Kept(), InMemoryStickyBucketService()
    users, sessions = [None, *(f"u{n}" for n in range(25))], [None, *(f"s{n}" for n in range(25))]
    asked = [(random.choice(users), random.choice(sessions), step) for step in range(len(STEPS)) for _ in range(60)]
    # later settings come back too, as after a roll back of the file
    asked += [(random.choice(users), random.choice(sessions), random.randrange(len(STEPS))) for _ in range(200)]
    assigners = [assigner(**step) for step in STEPS]
    for user, session, step in asked:
        # without meta the client has no key to find a bucket by; here a variation's number is its key
        settings = STEPS[step] | ({"meta": [{"key": str(n)} for n in range(3)]} if "meta" in STEPS[step] else {})
        settings |= {"meta": STEPS[step]["meta"]} if STEPS[step].get("meta") else {}
        expected = ask_growthbook(theirs, settings, user, session)
        assert ours.assign(assigners[step], user, session).arm == expected, (user, session, step)
    written = {key: doc["assignments"] for key, doc in theirs.docs.items()}
    assert ours.buckets == written
    assert len(written) > 30


def test_who_is_in_stays_when_coverage_falls_and_newcomers_stay_out():
    kept, wide, narrow = Kept(), assigner(coverage=1), assigner(coverage=0.01)
    narrow.check_follows(wide)
    before = {f"u{n}": kept.assign(wide, f"u{n}").arm for n in range(200)}
    assert {user: kept.assign(narrow, user).arm for user in before} == before
    newcomers = [kept.assign(narrow, f"new-{n}").in_experiment for n in range(200)]
    assert sum(newcomers) < 20


def test_a_new_phase_with_the_same_version_moves_nobody_who_was_in_it():
    kept, first = Kept(), assigner(coverage=1)
    before = {f"u{n}": kept.assign(first, f"u{n}").arm for n in range(200)}
    second = assigner(coverage=1, phase="2", weights=[0.9, 0.1])
    second.check_follows(first)
    assert {user: kept.assign(second, user).arm for user in before} == before
    third = assigner(coverage=1, phase="3", weights=[0.9, 0.1], bucketVersion=1)
    after = {user: kept.assign(third, user).arm for user in before}
    assert sum(arm == "recgpt" for arm in after.values()) < 40


def test_who_has_a_bucket_of_a_version_that_is_blocked_is_left_out():
    kept = Kept()
    for n in range(100):
        kept.assign(assigner(coverage=1), f"u{n}")
    blocked = assigner(coverage=1, phase="2", bucketVersion=1, minBucketVersion=1)
    assert {kept.assign(blocked, f"u{n}").reason for n in range(100)} == {Reason.NOT_IN_EXPERIMENT}
    assert kept.assign(blocked, "new").reason is Reason.EXPERIMENT


def test_the_anonymous_keep_their_arm_when_they_log_in():
    kept, ours = Kept(), assigner(coverage=1, fallbackAttribute="session_id")
    before = {n: kept.assign(ours, None, f"s{n}") for n in range(100)}
    after = {n: kept.assign(ours, f"u{n}", f"s{n}") for n in before}
    assert [after[n].arm for n in before] == [before[n].arm for n in before]
    assert {each.by for each in after.values()} == {"user_id"}
    # and then on another device, by the user's own bucket
    assert [kept.assign(ours, f"u{n}", "another").arm for n in before] == [before[n].arm for n in before]


def test_without_the_store_the_hash_decides_and_says_so():
    ours = assigner()
    plain = Assigner.from_features({"features": feature()}, ARMS)
    for n in range(100):
        chosen, expected = ours.assign(f"u{n}"), plain.assign(f"u{n}")
        assert (chosen.arm, chosen.reason) == (expected.arm, expected.reason)
        assert chosen.degraded == (("buckets_unavailable",) if chosen.in_experiment else ())
        assert (chosen.bucket, expected.degraded) == (None, ())


@pytest.mark.parametrize("changes", [{"active": False}, {"disableStickyBucketing": True}])
def test_experiments_that_keep_nothing_ask_for_no_buckets(changes):
    assert (assigner().bucket_units, assigner(**changes).bucket_units) == (("user_id",), ())


@pytest.mark.parametrize("name", ["bucketVersion", "minBucketVersion"])
def test_a_version_changes_with_a_phase_alone(name):
    with pytest.raises(ConfigurationError, match=f"changed its {name} within phase '1'"):
        assigner(**{name: 1}).check_follows(assigner())
    assigner(**{name: 1, "phase": "2"}).check_follows(assigner())
