"""Rules that are sound alone and not together, and files that may not follow each other while users are in a test.

Whoever is in an arm of an experiment's phase stays there: whatever coverage rises, whichever other rule is edited.
"""

from collections.abc import Sequence
from itertools import combinations

from service.errors import ConfigurationError
from service.experiments.conditions import sizes_by_attribute, told_apart
from service.experiments.rules import FEATURE, STICKY_KEYS, Experiment, Feature, Filter, ForceRule

Rule = Experiment | ForceRule
# of an experiment, within a phase
FIXED = ("kind", "hashAttribute", "fallback", "variations", "weights", "seed", "filters", "condition", "meta")
MAX_EFFORT = 200_000  # judgements of a value by a condition, each of 1 to 5 us
CHEAP = 100  # looked up in a list, or two ranges compared, instead of judged
VERSIONS = (*STICKY_KEYS, *FIXED)  # where buckets are kept: these decide whether a user stays in one


def check_together(feature: Feature) -> frozenset[str]:
    """The attributes whose single value tells the users of two rules apart.

    Raises ConfigurationError for two rules that would disturb each other. A stopped experiment disturbs nobody.
    """
    single: set[str] = set()
    check_effort(feature)
    hashed = _hashed(feature)
    for first, second in combinations(hashed, 2):
        if seed_of(first) == seed_of(second):
            raise ConfigurationError(
                f"experiments: {name_of(first)} and {name_of(second)} have one seed, {seed_of(first)!r}: the arm "
                "in one would decide that in the other; give one of them a seed of its own"
            )
        single |= _check_overlap(first, second)
    seeds = {seed_of(rule): name_of(rule) for rule in hashed}
    for rule in hashed:
        for part in rule.filters:
            if part.seed in seeds:
                raise ConfigurationError(
                    f"experiments: a filter of {name_of(rule)} has the seed of {seeds[part.seed]}, {part.seed!r}; "
                    "give the filters a seed of their own"
                )
    return frozenset(single)


def check_effort(feature: Feature, before: int = 0) -> int:
    """The comparisons that its rules need with each other, at most, and those of other features, `before`.

    Raises ConfigurationError where they are too many: they grow with the square of what is compared.
    """
    hashed = _hashed(feature)
    asked = [sizes_by_attribute(rule.condition) for rule in hashed]
    plain = [len(own) + _num_filtered(rule.filters) for own, rule in zip(asked, hashed, strict=True)]
    total = before + _num_pairs([1] * len(hashed)) + _num_pairs(plain) // CHEAP
    for name in {name for own in asked for name in own}:
        sizes = [own[name] for own in asked if name in own]
        values = [size.values for size in sizes]
        # each value of one rule is judged by the operators of the other; in lists it is looked up
        both = [own.operators + own.values for own in sizes]
        total += _num_pairs(both) - _num_pairs(values) + _num_pairs(values) // CHEAP
    if total > MAX_EFFORT:
        raise ConfigurationError(
            f"experiments: the rules of {FEATURE} would be compared {total:,} times with each other, and "
            f"{MAX_EFFORT:,} are the limit: they are too many, or their conditions ask for too much; take out those "
            "that are over"
        )
    return total


def _num_pairs(sizes: Sequence[int]) -> int:
    """The pairs of one thing each of two rules."""
    return (sum(sizes) ** 2 - sum(size * size for size in sizes)) // 2


def _num_filtered(filters: Sequence[Filter]) -> int:
    # two filters take as long as some ten ranges
    return sum(3 + len(part.ranges) for part in filters)


def hash_seeds(feature: Feature) -> set[str]:
    """The seeds by which its rules choose."""
    return {seed_of(rule) for rule in _hashed(feature)}


def filter_seeds(feature: Feature) -> set[str]:
    """The seeds of the filters of these rules."""
    return {part.seed for rule in _hashed(feature) for part in rule.filters}


def _hashed(feature: Feature) -> list[Rule]:
    rules = [rule for rule in feature.rules if not isinstance(rule, Experiment) or rule.active]
    # a force rule that takes everybody, or a condition's users, draws nobody by a hash
    return [rule for rule in rules if isinstance(rule, Experiment) or rule.is_rollout]


def _check_overlap(first: Rule, second: Rule) -> set[str]:
    """The attribute that has to be single for the two to share no request; none where nothing has to be."""
    if isinstance(second, ForceRule) or are_exclusive(first.filters, second.filters):
        return set()
    if apart := told_apart(first.condition, second.condition):
        return {apart.attribute} if apart.is_single else set()
    raise ConfigurationError(
        f"experiments: {name_of(first)} and {name_of(second)} overlap: whom a higher coverage of the first takes "
        f"would leave an arm of {name_of(second)}; give both a filter with one seed and ranges that do not meet, or "
        "conditions on one attribute that no request can meet together"
    )


def are_exclusive(first: Sequence[Filter], second: Sequence[Filter]) -> bool:
    """True where no user passes both: two filters with one seed, and ranges that do not meet."""
    pairs = [
        (left, right)
        for left in first
        for right in second
        if (left.seed, left.attribute) == (right.seed, right.attribute)
    ]
    return any(not _meet(left.ranges, right.ranges) for left, right in pairs)


def _meet(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> bool:
    return any(low < end and begin < high for low, high in left for begin, end in right)


def seed_of(rule: Rule) -> str:
    """The seed of a rule's hash, as the SDK takes it."""
    return rule.seed or (rule.key if isinstance(rule, Experiment) else FEATURE)


def name_of(rule: Rule) -> str:
    return rule.key if isinstance(rule, Experiment) else f"the rollout of {rule.force}"


def check_follows(coming: Sequence[Experiment], current: Sequence[Experiment], has_buckets: bool = False) -> None:
    """Raises ConfigurationError where a user of an experiment in force would change arm within its phase.

    Stopping an experiment, raising its coverage and beginning a new phase move nobody within a phase; where buckets are
    kept (has_buckets), neither does a coverage that falls.
    """
    running = {(experiment.key, experiment.phase): experiment for experiment in current if experiment.active}
    for experiment in coming:
        before = running.get((experiment.key, experiment.phase))
        if before is None or not experiment.active:
            continue
        fixed = VERSIONS if has_buckets else FIXED
        changed = next((name for name in fixed if getattr(experiment, name) != getattr(before, name)), None)
        is_kept = has_buckets and not experiment.disableStickyBucketing
        if changed is None and experiment.coverage < before.coverage and not is_kept:
            changed = "coverage, which fell"
        if changed:
            raise ConfigurationError(
                f"experiments: {experiment.key} changed its {changed} within phase {experiment.phase!r}: users would "
                "change arm; give it a new phase, or stop it with active: false"
            )
