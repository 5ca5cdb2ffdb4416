"""Rules that are sound alone and not together, and files that would move users who are in a test."""

import pytest

from service.errors import ConfigurationError
from service.experiments.sentences import check_feature
from service.experiments.together import are_exclusive, check_follows, check_together

ARMS = ("recgpt", "comirec")
SPLIT = {"key": "a", "hashVersion": 2, "hashAttribute": "user_id", "variations": [*ARMS]}
ROLLOUT = {"force": "comirec", "coverage": 0.1, "hashAttribute": "user_id"}


def experiment(key="a", **more):
    return SPLIT | {"key": key} | more


def part(low, high, seed="layer"):
    return [{"attribute": "user_id", "hashVersion": 2, "seed": seed, "ranges": [[low, high]]}]


def feature(*rules):
    return check_feature({"defaultValue": "recgpt", "rules": [*rules]}, ARMS)


@pytest.mark.parametrize(
    "rules",
    [
        [experiment()],
        [experiment("a", filters=part(0, 0.5)), experiment("b", filters=part(0.5, 1))],
        [experiment("a"), experiment("b", active=False)],
        [experiment("a", condition={"country": "AT"}), experiment("b", condition={"country": "DE"})],
        [ROLLOUT | {"condition": {"age": {"$lt": 18}}}, experiment("b", condition={"age": {"$gte": 18}})],
        [experiment("a"), {"force": "comirec"}],
        [experiment("a"), {"force": "comirec", "coverage": 1, "hashAttribute": "user_id"}],
    ],
)
def test_rules_that_disturb_nobody_are_taken(rules):
    check_together(feature(*rules))


def test_one_seed_for_two_experiments_is_refused():
    with pytest.raises(ConfigurationError, match="a and b have one seed, 's': the arm in one would decide"):
        check_together(feature(experiment("a", seed="s"), experiment("b", seed="s")))


def test_conditions_that_a_request_may_meet_together_are_refused():
    rules = experiment("a", condition={"country": "AT"}), experiment("b", condition={"language": "de"})
    with pytest.raises(ConfigurationError, match=r"a and b overlap: .* no request can meet together"):
        check_together(feature(*rules))


def test_the_attributes_that_must_be_single_are_named():
    rules = [experiment(key, condition={"country": {"$in": [key]}}) for key in "abc"]
    assert check_together(feature(*rules)) == {"country"}
    assert check_together(feature(*rules[:1])) == frozenset()


def test_two_experiments_over_the_same_users_are_refused():
    with pytest.raises(ConfigurationError, match=r"a and b overlap: .* ranges that do not meet"):
        check_together(feature(experiment("a"), experiment("b")))


def test_ranges_that_meet_exclude_nobody():
    rules = experiment("a", filters=part(0, 0.6)), experiment("b", filters=part(0.5, 1))
    with pytest.raises(ConfigurationError, match="overlap"):
        check_together(feature(*rules))


def test_a_rollout_before_an_experiment_would_take_its_users():
    with pytest.raises(ConfigurationError, match="the rollout of comirec and a overlap"):
        check_together(feature(ROLLOUT, experiment("a")))


def test_a_rollout_behind_an_experiment_takes_those_it_leaves():
    check_together(feature(experiment("a", coverage=0.5), ROLLOUT))


def test_a_filter_with_the_seed_of_another_experiment_is_refused():
    first = experiment("a", filters=[*part(0, 0.5), *part(0, 0.5, "hash of b")])
    second = experiment("b", filters=part(0.5, 1), seed="hash of b")
    with pytest.raises(ConfigurationError, match="a filter of a has the seed of b, 'hash of b'"):
        check_together(feature(first, second))


def test_filters_of_other_seeds_do_not_exclude_each_other():
    first, second = feature(
        experiment("a", filters=part(0, 0.5, "x")), experiment("b", filters=part(0.5, 1, "y"))
    ).experiments
    assert not are_exclusive(first.filters, second.filters)


BEFORE = experiment("a", coverage=0.5, weights=[0.5, 0.5])


def follow(**change):
    check_follows(feature(BEFORE | change).experiments, feature(BEFORE).experiments)


@pytest.mark.parametrize(
    "change",
    [{}, {"coverage": 0.9}, {"active": False}, {"phase": "2", "weights": [0.1, 0.9]}, {"key": "b"}, {"name": "new"}],
)
def test_changes_that_move_nobody_are_taken(change):
    follow(**change)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"coverage": 0.4}, "coverage, which fell"),
        ({"weights": [0.4, 0.6]}, "weights"),
        ({"variations": ["comirec", "recgpt"]}, "variations"),
        ({"seed": "other"}, "seed"),
        ({"condition": {"user_id": {"$ne": "7"}}}, "condition"),
        ({"filters": part(0, 0.5)}, "filters"),
    ],
)
def test_a_change_within_a_phase_that_moves_users_is_refused(change, what):
    with pytest.raises(ConfigurationError, match=f"a changed its {what} within phase ''"):
        follow(**change)


def test_what_was_stopped_may_begin_again_otherwise():
    stopped = feature(BEFORE | {"active": False}).experiments
    check_follows(feature(BEFORE | {"weights": [0.1, 0.9]}).experiments, stopped)
