"""Checks a feature and says in one sentence what is wrong with it: the sentence for each place in the models."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.errors import ConfigurationError
from service.experiments.conditions import MAX_JUDGED, UNITS, num_judged
from service.experiments.rules import FEATURE, HASH_VERSION, MAX_BUCKET_VERSION, Feature

ARM = "{where} names the arm {value!r}, and served are {arms}"
META_KEY = "{where} needs variation keys of 1 to 128 printable ASCII characters: they go into a header"
KNOWN_UNITS = " or ".join(UNITS)
FILTER_HASH = f"{{where}} needs filters with attribute {KNOWN_UNITS} and hashVersion {HASH_VERSION}"
BUCKET_VERSION = f"{{where}} has {{field}} {{value!r}}; it is a whole number from 0 to {MAX_BUCKET_VERSION}"
NOT_TEXT = "{where} has a {field} that is not a string"
# The sentence for each place, without the numbers of lists; the longest place that fits counts.
SENTENCES = {
    "defaultValue": f"{FEATURE}.defaultValue names the arm {{value!r}}, and served are {{arms}}",
    "rules": f"{FEATURE}.rules is not a list of rules",
    "rules.force.force": ARM,
    "rules.experiment.key": (
        f"a rule of {FEATURE} needs a key of 1 to 128 printable ASCII characters: it goes into a header"
    ),
    "rules.experiment.kind": "{where} has kind {value!r}; it is split or interleaving",
    "rules.experiment.namespace": ("{where} uses a namespace, which hashes with the biased version 1; use filters"),
    "rules.experiment.hashVersion": f"{{where}} has hashVersion {{value}}; only {HASH_VERSION} is unbiased",
    "rules.experiment.hashAttribute": f"{{where}} has hashAttribute {{value!r}}; it is {KNOWN_UNITS}",
    "rules.experiment.fallbackAttribute": NOT_TEXT,
    **{f"rules.experiment.{field}": BUCKET_VERSION for field in ("bucketVersion", "minBucketVersion")},
    "rules.experiment.disableStickyBucketing": "{where} has disableStickyBucketing {value!r}; it is true or false",
    **{f"rules.experiment.{field}": NOT_TEXT for field in ("phase", "seed", "name", "id")},
    "rules.experiment.variations": "{where} needs two variations or more",
    "rules.experiment.variations.": ARM,
    "rules.experiment.coverage": "{where} has coverage {value!r}; it must be 0 to 1",
    "rules.experiment.weights": "{where} needs one weight of 0 to 1 for each variation",
    "rules.experiment.meta": "{where} needs one meta entry for each variation",
    "rules.experiment.meta.key": META_KEY,
    "rules.experiment.filters": "{where} has filters that are not a list of filters",
    "rules.experiment.filters.attribute": FILTER_HASH,
    "rules.experiment.filters.hashVersion": FILTER_HASH,
    "rules.experiment.filters.seed": "{where} has a filter with a seed that is not a string",
    "rules.experiment.filters.ranges": "{where} has a filter without ranges [from, to] within 0 to 1, from below to",
    "rules.experiment.condition": "{where} has a condition that is not an object",
    "rules.experiment.active": "{where} has active {value!r}; it is true or false",
    "rules.force.coverage": "{where} has coverage {value!r}; it must be 0 to 1",
    "rules.force.seed": NOT_TEXT,
    "rules.force.condition": "{where} has a condition that is not an object",
    "rules.force.filters": "{where} has filters that are not a list of filters",
    "rules.force.filters.attribute": FILTER_HASH,
    "rules.force.filters.hashVersion": FILTER_HASH,
    "rules.force.filters.seed": "{where} has a filter with a seed that is not a string",
    "rules.force.filters.ranges": "{where} has a filter without ranges [from, to] within 0 to 1, from below to",
}


def unrepeated(source: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Raises ConfigurationError for a key that is there twice, of which one would count."""
    counts = Counter(name for name, _ in pairs)
    if twice := next((name for name, count in counts.items() if count > 1), None):
        raise ConfigurationError(f"{source} has the key {twice[:64]!r} twice in one object")
    return dict(pairs)


def check_feature(feature: Mapping[str, Any], arms: Collection[str]) -> Feature:
    """The feature, checked. Raises ConfigurationError for the first thing that is wrong with it."""
    # first: what would take a request too long is not looked at any closer
    check_size(feature)
    try:
        return Feature.model_validate(feature, context={"arms": frozenset(arms)})
    except ValidationError as error:
        problems = error.errors(include_url=False)
    raise ConfigurationError(f"experiments: {_sentence(min(problems, key=_rank), feature, arms)}")


def check_size(feature: Mapping[str, Any]) -> None:
    """Raises ConfigurationError where a request would be judged by too much. The feature may be of any form."""
    rules = feature.get("rules")
    known = [rule for rule in (rules if isinstance(rules, list) else ()) if isinstance(rule, dict)]
    judged = sum(num_judged(rule.get(name)) for rule in known for name in ("condition", "filters"))
    if judged > MAX_JUDGED:
        raise ConfigurationError(
            f"experiments: the conditions and filters of {FEATURE} have {judged:,} parts, by which every request may "
            f"have to be judged, and {MAX_JUDGED:,} are the limit; take out rules that are over, or name many values "
            "in one list"
        )


def _rank(problem: ErrorDetails) -> tuple[int, int]:
    """Orders problems by rule; in a rule its key comes first, then unknown keys, which are often misspelled ones."""
    loc = problem["loc"]
    rule = loc[1] if len(loc) > 1 and isinstance(loc[1], int) else -1
    is_name = len(loc) == 4 and loc[3] in {"key", "namespace"}
    return rule, 0 if is_name else 1 if problem["type"] == "extra_forbidden" else 2


def _sentence(problem: ErrorDetails, feature: Mapping[str, Any], arms: Collection[str]) -> str:
    loc = problem["loc"]
    if problem["type"] == "refused":
        return str(problem["ctx"]["sentence"])
    names = [part for part in loc if isinstance(part, str)]
    where = _where(loc, feature)
    if problem["type"] == "extra_forbidden":
        part = {"meta": "a meta entry of ", "filters": "a filter of "}.get(names[2], "") if len(names) > 3 else ""
        return f"{part}{where} has the unknown key {names[-1]!r}"
    place = ".".join(names)
    template = SENTENCES.get(f"{place}." if isinstance(loc[-1], int) else place) or _longest(place)
    value = None if problem["type"] == "missing" else problem["input"]
    served = ", ".join(sorted(arms)) or "none"
    return template.format(where=where, value=value, field=names[-1], arms=served)


def _where(loc: tuple[int | str, ...], feature: Mapping[str, Any]) -> str:
    """The part of the feature that is wrong: an experiment by its key."""
    kind = loc[2] if len(loc) > 2 else None
    if kind is None:
        return FEATURE
    return f"a force rule of {FEATURE}" if kind == "force" else str(feature["rules"][loc[1]].get("key"))


def _longest(place: str) -> str:
    """The sentence of the longest part of a place that has one."""
    while place not in SENTENCES:
        place = place.rpartition(".")[0]
    return SENTENCES[place]
