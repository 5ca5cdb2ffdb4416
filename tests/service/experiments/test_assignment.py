"""Assignment: the SDK's conformance vectors, what the reader refuses, and that nobody ever changes arm."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from growthbook.core import chooseVariation, gbhash, getBucketRanges, getEqualWeights, getQueryStringOverride
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from structlog.testing import capture_logs

from service.errors import ConfigurationError, UnknownArm
from service.experiments.assignment import DEFAULT_FILE, Assigner, Reason
from service.experiments.exposure import DAY_MS, exposure_id

CASES = Path(__file__).parents[4] / "shared" / "conformance" / "growthbook_helper_cases.json"
ARMS = ("comirec", "recgpt", "sasrec")
USERS = [f"user-{n}" for n in range(10_000)]


def rule(**changes):
    base = {
        "key": "exp",
        "phase": "1",
        "hashAttribute": "user_id",
        "hashVersion": 2,
        "coverage": 1,
        "variations": ["comirec", "recgpt"],
        "weights": [0.5, 0.5],
        "meta": [{"key": "control"}, {"key": "treatment"}],
    }
    return {name: value for name, value in (base | changes).items() if value is not None}


def assigner(*rules, **feature):
    payload = {"features": {"recall_arm": {"defaultValue": "comirec", "rules": list(rules)} | feature}}
    return Assigner.from_features(json.loads(json.dumps(payload)), ARMS)


def helper_cases(name):
    if not CASES.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{CASES} is absent"))]
    return json.loads(CASES.read_text(encoding="utf-8"))[name]


@pytest.mark.parametrize("case", helper_cases("hash"))
def test_sdk_hash_follows_the_specification(case):
    seed, value, version, expected = case
    assert gbhash(seed, value, version) == expected


@pytest.mark.parametrize("case", helper_cases("getBucketRange"))
def test_sdk_bucket_ranges_follow_the_specification(case):
    _, (num_variations, coverage, weights), expected = case
    ranges = getBucketRanges(num_variations, coverage, weights)
    assert [pytest.approx(bounds, abs=1e-6) for bounds in expected] == [list(bounds) for bounds in ranges]


@pytest.mark.parametrize("case", helper_cases("chooseVariation"))
def test_sdk_choice_follows_the_specification(case):
    _, n, ranges, expected = case
    assert chooseVariation(n, ranges) == expected


@pytest.mark.parametrize("case", helper_cases("getEqualWeights"))
def test_sdk_equal_weights_follow_the_specification(case):
    num_variations, expected = case
    assert getEqualWeights(num_variations) == pytest.approx(expected)


@pytest.mark.parametrize("case", helper_cases("getQueryStringOverride"))
def test_sdk_query_override_follows_the_specification(case):
    _, key, url, num_variations, expected = case
    assert getQueryStringOverride(key, url, num_variations) == expected


@given(st.text(min_size=1, max_size=20))
def test_arm_is_the_one_of_the_specified_helpers(unit):
    bucket = chooseVariation(gbhash("exp", unit, 2), getBucketRanges(2, 1, [0.3, 0.7]))
    assert assigner(rule(weights=[0.3, 0.7])).assign(unit).arm == ("comirec", "recgpt")[bucket]


def test_default_file_is_recgpt_against_comirec():
    default = Assigner.from_file(DEFAULT_FILE, ("comirec", "recgpt"))
    arms = Counter(default.assign(user).arm for user in USERS[:1000])
    assert arms.keys() == {"comirec", "recgpt"}
    assert default.assign(None).arm == "comirec"
    assert default.assign("user-1").experiment == "recgpt-vs-comirec"


def test_assignment_names_experiment_phase_and_variation():
    chosen = assigner(rule(weights=[0, 1])).assign("user")
    assert (chosen.experiment, chosen.phase, chosen.variation, chosen.arm) == ("exp", "1", "treatment", "recgpt")
    assert (chosen.reason, chosen.in_experiment) == (Reason.EXPERIMENT, True)


@pytest.mark.parametrize("unit", [None, ""])
def test_nobody_in_particular_gets_the_control_outside_the_experiment(unit):
    chosen = assigner(rule()).assign(unit)
    assert (chosen.arm, chosen.reason, chosen.in_experiment, chosen.experiment) == (
        "comirec",
        Reason.NO_UNIT,
        False,
        None,
    )


def test_user_beyond_the_coverage_gets_the_control():
    chosen = assigner(rule(coverage=0)).assign("user")
    assert (chosen.arm, chosen.reason, chosen.variation) == ("comirec", Reason.NOT_IN_EXPERIMENT, None)


def test_without_rules_everybody_gets_the_default():
    assert assigner(defaultValue="sasrec").assign("user").arm == "sasrec"
    assert assigner().assign("user").reason is Reason.NO_EXPERIMENT


def test_force_rule_pins_everybody():
    chosen = assigner({"force": "recgpt"}, rule()).assign("user")
    assert (chosen.arm, chosen.reason, chosen.in_experiment) == ("recgpt", Reason.PINNED, False)


@pytest.mark.parametrize(("forced", "arm"), [("treatment", "recgpt"), ("control", "comirec"), ("sasrec", "sasrec")])
def test_forced_arm_is_served_and_never_analysed(forced, arm):
    chosen = assigner(rule()).assign("user", forced)
    assert (chosen.arm, chosen.reason, chosen.in_experiment) == (arm, Reason.FORCED, False)


def test_unknown_forced_arm_is_refused():
    with pytest.raises(UnknownArm, match="nothing"):
        assigner(rule()).assign("user", "nothing")


def test_variation_key_is_its_number_where_it_has_no_name():
    assert assigner(rule(meta=None, weights=[0, 1])).assign("user").variation == "1"


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.9, 0.1], [0.2, 0.3, 0.5]])
def test_users_split_as_weighted(weights):
    experiment = assigner(rule(variations=list(ARMS[: len(weights)]), weights=weights, meta=None))
    counts = Counter(experiment.assign(user).arm for user in USERS)
    expected = [len(USERS) * weight for weight in weights]
    assert chisquare([counts[arm] for arm in ARMS[: len(weights)]], expected).pvalue > 0.001


def test_two_experiments_split_independently():
    first, second = assigner(rule(key="first")), assigner(rule(key="second"))
    pairs = Counter((first.assign(user).arm, second.assign(user).arm) for user in USERS)
    table = [[pairs[a, b] for b in ARMS[:2]] for a in ARMS[:2]]
    assert chi2_contingency(table).pvalue > 0.001


@given(st.text(max_size=30))
def test_user_keeps_the_arm_over_calls_and_instances(unit):
    first = assigner(rule())
    assert len({first.assign(unit), first.assign(unit), assigner(rule()).assign(unit)}) == 1


def test_rising_coverage_adds_users_and_moves_none():
    steps = [assigner(rule(coverage=coverage)) for coverage in (0.0001, 0.05, 0.3, 0.31, 0.8, 1)]
    seen = {}
    for step in steps:
        inside = {user: step.assign(user).arm for user in USERS[:3000] if step.assign(user).in_experiment}
        assert seen.items() <= inside.items()
        seen = inside
    assert len(seen) == 3000


def user_range(seed, low, high):
    return {"seed": seed, "attribute": "user_id", "hashVersion": 2, "ranges": [[low, high]]}


def exclusive(key, low, high):
    return rule(key=key, filters=[user_range("layer", low, high)])


def test_filters_exclude_each_other_and_cover_all():
    experiments = assigner(exclusive("a", 0, 0.4), exclusive("b", 0.4, 1))
    counts = Counter(experiments.assign(user).experiment for user in USERS)
    assert chisquare([counts["a"], counts["b"]], [4000, 6000]).pvalue > 0.001
    assert None not in counts


REFUSED = {
    "sum to 1.3": rule(weights=[0.5, 0.8]),
    "sum to 0.995": rule(weights=[0.5, 0.495]),
    "one weight of 0 to 1": rule(weights=[1.5, -0.5]),
    "one weight of": rule(weights=[1]),
    "hashVersion 1": rule(hashVersion=1),
    "hashVersion None": rule(hashVersion=None),
    "hashAttribute 'id'; it is user_id or session_id": rule(hashAttribute="id"),
    "filters with its own hashAttribute, 'session_id'": rule(
        hashAttribute="session_id", filters=[{"seed": "layer", "attribute": "user_id", "ranges": [[0, 1]]}]
    ),
    "nobody would fall back": rule(
        fallbackAttribute="session_id", filters=[{"seed": "layer", "attribute": "user_id", "ranges": [[0, 1]]}]
    ),
    "bucketVersion -1": rule(bucketVersion=-1),
    "minBucketVersion '1'": rule(minBucketVersion="1"),
    "minBucketVersion 9007199254740992; it is a whole number from 0 to 1000": rule(minBucketVersion=2**53),
    "disableStickyBucketing 1": rule(disableStickyBucketing=1),
    "uses a namespace": rule(namespace=["layer", 0, 0.5]),
    "names the arm 'gru4rec'": rule(variations=["comirec", "gru4rec"]),
    "unknown key 'coverge'": rule(coverge=1),
    "condition on 'device.os'": rule(condition={"device.os": "ios"}),
    "condition on 'user .inGroup'": rule(condition={"$or": [{"user_id": "a"}, {"$not": {"user": {"$inGroup": "a"}}}]}),
    "condition on '.savedGroup'": {"force": "recgpt", "condition": {"$savedGroup": "staff"}},
    "condition on 'user_id that is no text'": rule(condition={"user_id": {"$in": [7]}}),
    "condition that is not an object": rule(condition=["user_id"]),
    "active 'no'": rule(active="no"),
    "unknown key 'parentConditions'": rule(parentConditions=[]),
    "with a coverage needs hashAttribute": {"force": "recgpt", "coverage": 0.5},
    "a filter with a seed that is not a string": rule(
        filters=[{"seed": 5, "attribute": "user_id", "ranges": [[0, 1]]}]
    ),
    "within 0 to 1, from below to": rule(filters=[user_range("f", 0.6, 0.2)]),
    "names the arm 'gone'": {"force": "gone"},
    "coverage 2": rule(coverage=2),
    "coverage True": rule(coverage=True),
    "two variations": rule(variations=["comirec"], weights=[1], meta=None),
    "needs a key": rule(key=None),
    "printable ASCII": rule(key="a\r\nX-Evil: 1"),
    "one meta entry": rule(meta=[{"key": "control"}]),
    "variation key of its own": rule(meta=[{"key": "same"}, {"key": "same"}]),
    "unknown key 'passthrough'": rule(meta=[{"key": "a", "passthrough": True}, {"key": "b"}]),
    "needs filters with attribute": rule(filters=[{"seed": "layer", "ranges": [[0, 1]]}]),
    "filter seed of its own": rule(filters=[{"seed": "exp", "attribute": "user_id", "ranges": [[0, 1]]}]),
    "without ranges": rule(filters=[{"seed": "layer", "attribute": "user_id", "ranges": []}]),
    "phase that is not a string": rule(phase=1),
    "list of rules": 5,
    "list of filters": rule(filters={"seed": "layer"}),
    "from, to": rule(filters=[{"seed": "layer", "attribute": "user_id", "ranges": [[0, 1.5]]}]),
    "a meta entry of exp has the unknown key 'force'": rule(meta=[{"key": "a", "force": 1}, {"key": "b"}]),
    "a filter of exp has the unknown key 'hashversion'": rule(filters=[{"hashversion": 2}]),
    # the misspelled key is named, not the one that is missing because of it
    "unknown key 'hashversion'": rule(hashVersion=None, hashversion=2),
    "variation keys of 1 to 128": rule(meta=[{"key": "a b"}, {"name": "without a key"}]),
    "names the arm 5": rule(variations=["comirec", 5]),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_rule_is_refused_with_one_sentence(sentence):
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        assigner(REFUSED[sentence])
    assert "\n" not in str(caught.value)


def test_an_export_as_growthbook_writes_it_is_read_and_what_is_ignored_is_said():
    written = rule(
        id="fr_1", bucketVersion=2, minBucketVersion=0, fallbackAttribute="deviceId", seed="s-1", name="exp 1"
    )
    feature = {"defaultValue": "comirec", "rules": [written]}
    payload = {"status": 200, "features": {"recall_arm": feature}, "dateUpdated": "2026-01-01T00:00:00Z"}
    with capture_logs() as logged:
        export = Assigner.from_features(payload, ARMS)
    assert [(entry["event"], entry["keys"]) for entry in logged] == [
        ("experiment_keys_ignored", ["bucketVersion", "fallbackAttribute", "minBucketVersion"])
    ]
    plain = assigner(rule(id="fr_1", seed="s-1", name="exp 1"))
    assert [export.assign(user).arm for user in USERS[:99]] == [plain.assign(user).arm for user in USERS[:99]]


def layered(key, low, high, **changes):
    return exclusive(key, low, high) | changes


TOGETHER = {
    "have one seed, 's'": [layered("a", 0, 0.5, seed="s"), layered("b", 0.5, 1, seed="s")],
    "have one seed, 'b'": [layered("a", 0, 0.5, seed="b"), layered("b", 0.5, 1)],
    "a and b overlap": [rule(key="a", coverage=0.3), rule(key="b")],
    "b and c overlap": [layered("a", 0, 0.2), layered("b", 0.2, 0.6), layered("c", 0.5, 1)],
    "a and b overlap: whom": [layered("a", 0, 0.5), rule(key="b")],
    "the rollout of recgpt and b overlap": [
        {"force": "recgpt", "coverage": 0.1, "hashAttribute": "user_id"},
        rule(key="b"),
    ],
    "a filter of a has the seed of b": [
        rule(key="a", filters=[user_range("layer", 0, 0.5), user_range("b", 0, 1)]),
        layered("b", 0.5, 1),
    ],
}


@pytest.mark.parametrize("sentence", TOGETHER)
def test_rules_that_would_disturb_each_other_are_refused(sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        assigner(*TOGETHER[sentence])


def test_stopped_experiment_is_as_if_it_was_not_there():
    both = assigner(rule(key="a", active=False), rule(key="b"))
    alone = assigner(rule(key="b"))
    assert [both.assign(user).experiment for user in USERS[:99]] == ["b"] * 99
    assert [both.assign(user).arm for user in USERS[:999]] == [alone.assign(user).arm for user in USERS[:999]]
    only = assigner(rule(active=False)).assign("user")
    assert (only.arm, only.reason) == ("comirec", Reason.NO_EXPERIMENT)


def test_condition_on_ids_chooses_those_users():
    staff = {"force": "sasrec", "condition": {"user_id": {"$in": ["user-1", "user-7"]}}}
    chosen = assigner(staff, rule())
    assert [chosen.assign(f"user-{n}").reason for n in (1, 2, 7)] == ["pinned", "experiment", "pinned"]


def test_rollout_behind_the_experiments_takes_its_share_of_the_rest():
    rollout = {"force": "sasrec", "coverage": 0.25, "hashAttribute": "user_id"}
    counts = Counter(assigner(exclusive("a", 0, 0.6), rollout).assign(user).reason for user in USERS)
    assert counts["experiment"] == pytest.approx(6000, abs=200)
    assert counts["pinned"] == pytest.approx(1000, abs=120)


@pytest.mark.parametrize("coverages", [(0.01, 1), (0.01, 0.02, 0.5, 1)])
def test_rising_coverage_beside_another_experiment_moves_nobody(coverages):
    steps = [assigner(layered("a", 0, 0.5, coverage=share), layered("b", 0.5, 1)) for share in coverages]
    seen = {}
    for step in steps:
        inside = {user: step.assign(user).arm for user in USERS[:3000] if step.assign(user).in_experiment}
        assert seen.items() <= inside.items()
        seen = inside
    assert len(seen) == 3000


FOLLOWS = {
    "coverage rises": ({"coverage": 0.3}, {"coverage": 0.9}),
    "stopped": ({}, {"active": False}),
    "started again": ({"active": False}, {}),
    "a new phase": ({}, {"phase": "2", "weights": [0.9, 0.1]}),
    "renamed for people": ({}, {"name": "another"}),
}
MOVES = {
    "weights": ({}, {"weights": [0.6, 0.4]}),
    "variations": ({}, {"variations": ["comirec", "sasrec"]}),
    "seed": ({}, {"seed": "new"}),
    "condition": ({}, {"condition": {"user_id": "a"}}),
    "meta": ({}, {"meta": [{"key": "control"}, {"key": "other"}]}),
    "coverage, which fell": ({"coverage": 0.9}, {"coverage": 0.3}),
}


@pytest.mark.parametrize("name", FOLLOWS)
def test_changes_that_move_nobody_follow(name):
    before, after = (assigner(rule(**changes)) for changes in FOLLOWS[name])
    after.check_follows(before)


@pytest.mark.parametrize("name", MOVES)
def test_changes_that_move_users_within_a_phase_are_refused(name):
    before, after = (assigner(rule(**changes)) for changes in MOVES[name])
    with pytest.raises(ConfigurationError, match=f"exp changed its {name} within phase '1'"):
        after.check_follows(before)


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "experiments.json"
    path.write_text('{"features": {"recall_arm": {"defaultValue": "recgpt", "defaultValue": "comirec"}}}')
    with pytest.raises(ConfigurationError, match="the key 'defaultValue' twice"):
        Assigner.from_file(path, ARMS)


def test_two_experiments_of_one_key_are_refused():
    with pytest.raises(ConfigurationError, match="same key"):
        assigner(rule(), rule())


@pytest.mark.parametrize("payload", [None, [], {}, {"features": []}, {"features": {"recall_arm": 1}}])
def test_payload_without_the_feature_is_refused(payload):
    with pytest.raises(ConfigurationError, match=r"no features\.recall_arm"):
        Assigner.from_features(payload, ARMS)


@pytest.mark.parametrize("text", ["", "{", '{"features": NaN}', "\ufeff{}"])
def test_broken_json_is_refused(tmp_path, text):
    path = tmp_path / "experiments.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is not JSON"):
        Assigner.from_file(path, ARMS)


def test_absent_file_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Assigner.from_file(tmp_path / "none.json", ARMS)


def test_exposure_id_holds_for_a_day():
    chosen = assigner(rule()).assign("user")
    ids = [exposure_id(chosen, "user", ts_ms) for ts_ms in (0, DAY_MS - 1, DAY_MS)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("changed", [rule(phase="2"), rule(key="other"), rule(weights=[0.4, 0.6])])
def test_exposure_id_changes_with_the_experiment(changed):
    before, after = assigner(rule()).assign("user"), assigner(changed).assign("user")
    assert exposure_id(before, "user", 0) != exposure_id(after, "user", 0)


def test_assignment_is_cheap():
    experiment = assigner(rule())
    start = time.perf_counter()
    for user in USERS[:2000]:
        experiment.assign(user)
    assert (time.perf_counter() - start) / 2000 < 400e-6  # about 10 us; ten times the budget on a shared machine


# --- interleaving


def interleaving(**changes):
    return rule(**{"kind": "interleaving", "weights": None} | changes)


def test_everybody_of_an_interleaving_has_both_arms():
    chosen = {assigner(interleaving()).assign(user) for user in USERS[:200]}
    [only] = chosen
    assert (only.arm, only.variation, only.reason) == ("interleaved", "interleaved", Reason.EXPERIMENT)
    assert only.teams == (("control", "comirec"), ("treatment", "recgpt"))


def test_coverage_of_an_interleaving_takes_a_share_of_the_users():
    interleaved = [assigner(interleaving(coverage=0.3)).assign(user).in_experiment for user in USERS[:3000]]
    assert 0.27 < sum(interleaved) / len(interleaved) < 0.33
    wider = [assigner(interleaving(coverage=0.6)).assign(user).in_experiment for user in USERS[:3000]]
    assert all(after for before, after in zip(interleaved, wider, strict=True) if before)


def test_tester_may_force_one_team_or_the_mixed_list():
    ours = assigner(interleaving())
    assert (ours.assign("u", "treatment").arm, ours.assign("u", "treatment").teams) == ("recgpt", ())
    assert [team.arm for team in ours.assign("u", "interleaved").teams] == ["comirec", "recgpt"]
    assert ours.assign("u", "interleaved").reason is Reason.FORCED


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"variations": ["comirec", "recgpt", "sasrec"], "meta": None}, "needs two variations that are different arms"),
        ({"variations": ["comirec", "comirec"]}, "needs two variations that are different arms"),
        ({"weights": [0.9, 0.1]}, "both arms have half of each list; leave the weights out"),
        ({"meta": [{"key": "control"}, {"key": "interleaved"}]}, "the variation key 'interleaved', which is that"),
        ({"kind": "mixed"}, "exp has kind 'mixed'; it is split or interleaving"),
    ],
)
def test_interleaving_that_cannot_be_is_refused(changes, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        assigner(interleaving(**changes))


def test_a_split_does_not_become_an_interleaving_within_its_phase():
    with pytest.raises(ConfigurationError, match="changed its kind within phase '1'"):
        assigner(interleaving()).check_follows(assigner(rule(weights=None)))
    assigner(interleaving(phase="2")).check_follows(assigner(rule(weights=None)))
