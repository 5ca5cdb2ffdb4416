"""Rules that are sound alone and not together, and files that would move users who are in a test."""

import pytest

from service.errors import ConfigurationError
from service.experiments.conditions import MAX_JUDGED
from service.experiments.sentences import check_feature, unrepeated
from service.experiments.together import MAX_EFFORT, are_exclusive, check_effort, check_follows, check_together

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


def by_country(count, size=1):
    """So many experiments, each of so many countries of its own."""
    own = [[f"{n}-{m}" for m in range(size)] for n in range(count)]
    return [experiment(f"e{n}", condition={"country": {"$in": names}}) for n, names in enumerate(own)]


def in_parts(count):
    """Two experiments with so many conditions on one attribute."""
    return [experiment(name, condition={"$and": [{"country": name}] * count}) for name in "ab"]


def in_filters(count, num_ranges):
    """Two experiments with so many filters, each of so many ranges."""
    ranges = [[[(2 * n + own) / 1e5, (2 * n + own + 1) / 1e5] for n in range(num_ranges)] for own in (0, 1)]
    return [
        experiment(name, filters=[part(0, 1)[0] | {"ranges": own}] * count)
        for name, own in zip("ab", ranges, strict=True)
    ]


@pytest.mark.parametrize(
    "rules",
    [by_country(30, 10), by_country(2, 3_000), in_parts(100), in_filters(1, 2_000), in_filters(100, 2)],
    ids=["rules", "values", "conditions", "ranges", "filters"],
)
def test_many_rules_and_long_conditions_are_compared(rules):
    assert 0 < check_effort(feature(*rules)) <= MAX_EFFORT


@pytest.mark.parametrize(
    "rules",
    [by_country(1_000), by_country(2, 10_000), in_parts(1_000)],
    ids=["rules", "values", "conditions"],
)
def test_what_would_take_long_to_compare_is_refused_uncompared(rules):
    with pytest.raises(ConfigurationError, match=r"the rules of recall_arm would be compared .* times with each other"):
        check_together(feature(*rules))


def test_what_is_compared_with_nothing_may_be_long():
    ids = [str(n) for n in range(10_000)]
    assert check_effort(feature(experiment(condition={"user_id": {"$in": ids}}))) == 0
    others = [experiment(f"e{n}", condition={"country": f"c{n}"}) for n in range(20)]
    long = experiment("long", condition={"country": "x", "user_id": {"$in": ids}})
    assert check_effort(feature(*others, long)) < 2_000
    # what is stopped is not compared either
    assert check_effort(feature(*(rule | {"active": False} for rule in by_country(1_000)))) == 0


def test_the_features_of_a_file_are_counted_together():
    small = feature(*by_country(100))
    effort = check_effort(small)
    assert check_effort(small, effort) == 2 * effort
    with pytest.raises(ConfigurationError, match=f"{MAX_EFFORT:,} are the limit"):
        check_effort(small, MAX_EFFORT)


class CountedKey(str):
    """A key that counts how often it is compared."""

    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        CountedKey.comparisons += 1
        return str.__eq__(self, other)


def test_a_repeated_key_is_looked_for_in_one_pass():
    keys = [CountedKey(f"k{n}") for n in range(5_000)]
    assert len(unrepeated("it", [(key, 1) for key in keys])) == 5_000
    assert CountedKey.comparisons < 10 * 5_000
    with pytest.raises(ConfigurationError, match="the key 'k3' twice"):
        unrepeated("it", [(key, 1) for key in (*keys, "k4", "k3", "k3")])


def of_parts(number):
    """A force rule whose condition has this many parts."""
    return {"force": "comirec", "condition": {"$or": [{"age": 7}] * ((number - 2) // 2)}}


def test_rules_that_a_request_is_soon_judged_by_are_taken():
    many = {"user_id": {"$in": [str(number) for number in range(10_000)]}}
    assert feature(of_parts(MAX_JUDGED - 20), experiment(condition=many | {"age": 7}, filters=part(0, 1))) is not None


@pytest.mark.parametrize(
    "rules",
    [
        [of_parts(MAX_JUDGED + 2)],
        [of_parts(MAX_JUDGED), of_parts(4)],
        [{"force": "comirec", "filters": part(0, 1) * MAX_JUDGED}],
        in_filters(1, 10_000),
        [experiment(condition={"$not": {"$and": [of_parts(MAX_JUDGED)["condition"]]}})],
    ],
)
def test_rules_that_would_take_a_request_long_are_refused(rules):
    with pytest.raises(ConfigurationError, match=r"conditions and filters of recall_arm have \d+,\d+ parts"):
        feature(*rules)


@pytest.mark.parametrize("rules", [None, 5, "x", [5], [{"condition": 5, "filters": "x"}]])
def test_rules_of_no_known_form_are_refused_for_that(rules):
    with pytest.raises(ConfigurationError, match=r"^(?!.*parts)"):
        check_feature({"defaultValue": "nobody", "rules": rules}, ARMS)
