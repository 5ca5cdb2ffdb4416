"""What an experiment file may say: the subset of GrowthBook's feature JSON that keeps assignments unbiased and stable.

Refused, each with one sentence: the biased hash version 1 and the namespaces built on it, weights that do not sum to 1,
exclusion by the experiment's own hash, arms nobody serves, and every key this service would not honour.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from service.errors import ConfigurationError

FEATURE = "recall_arm"
HASH_ATTRIBUTE = "user_id"
HASH_VERSION = 2
WEIGHT_TOLERANCE = 1e-6

KEY = re.compile(r"[!-~]{1,128}")  # goes into a header
FEATURE_KEYS = frozenset({"defaultValue", "rules", "metadata"})
EXPERIMENT_KEYS = frozenset(
    {"id", "key", "name", "phase", "seed", "variations", "weights", "coverage", "meta", "filters"}
    | {"hashAttribute", "hashVersion"}
)
FORCE_KEYS = frozenset({"id", "force"})
META_KEYS = frozenset({"key", "name"})
FILTER_KEYS = frozenset({"seed", "ranges", "hashVersion", "attribute"})


def check_feature(feature: Mapping[str, Any], arms: Collection[str]) -> None:
    """Raises ConfigurationError for the first thing wrong with the feature."""
    _check_keys(feature, FEATURE_KEYS, FEATURE)
    _check_arm(feature.get("defaultValue"), arms, f"{FEATURE}.defaultValue")
    rules = feature.get("rules") or []
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        _refuse(f"{FEATURE}.rules is not a list of rules")
    for rule in rules:
        if "force" in rule:
            _check_keys(rule, FORCE_KEYS, f"a force rule of {FEATURE}")
            _check_arm(rule["force"], arms, f"a force rule of {FEATURE}")
        else:
            _check_experiment(rule, arms)
    keys = [rule["key"] for rule in rules if "key" in rule]
    if len(set(keys)) < len(keys):
        _refuse(f"{FEATURE} has two experiments with the same key")


def _refuse(sentence: str) -> NoReturn:
    raise ConfigurationError(f"experiments: {sentence}")


def _check_keys(found: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    if unknown := sorted(set(found) - known):
        _refuse(f"{where} has the unknown key {unknown[0]!r}")


def _check_arm(arm: object, arms: Collection[str], where: str) -> None:
    if not isinstance(arm, str) or arm not in arms:
        _refuse(f"{where} names the arm {arm!r}, and served are {', '.join(sorted(arms)) or 'none'}")


def _check_experiment(rule: Mapping[str, Any], arms: Collection[str]) -> None:
    key = rule.get("key")
    if not isinstance(key, str) or not KEY.fullmatch(key):
        _refuse(f"a rule of {FEATURE} needs a key of 1 to 128 printable ASCII characters: it goes into a header")
    if "namespace" in rule:
        _refuse(f"{key} uses a namespace, which hashes with the biased version 1; use filters")
    _check_keys(rule, EXPERIMENT_KEYS, key)
    _check_hash(rule, key)
    variations = rule.get("variations")
    if not isinstance(variations, list) or len(variations) < 2:
        _refuse(f"{key} needs two variations or more")
    for arm in variations:
        _check_arm(arm, arms, key)
    _check_shares(rule, key, len(variations))
    _check_meta(rule.get("meta"), key, len(variations))
    _check_filters(rule, key)


def _check_hash(rule: Mapping[str, Any], key: str) -> None:
    if rule.get("hashVersion") != HASH_VERSION:
        _refuse(f"{key} has hashVersion {rule.get('hashVersion')}; only {HASH_VERSION} is unbiased")
    if rule.get("hashAttribute") != HASH_ATTRIBUTE:
        _refuse(f"{key} has hashAttribute {rule.get('hashAttribute')!r}; the service knows only {HASH_ATTRIBUTE!r}")
    for name in ("phase", "seed", "name", "id"):
        if not isinstance(rule.get(name, ""), str):
            _refuse(f"{key} has a {name} that is not a string")


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _check_shares(rule: Mapping[str, Any], key: str, num_variations: int) -> None:
    coverage, weights = rule.get("coverage", 1), rule.get("weights")
    if not _is_share(coverage):
        _refuse(f"{key} has coverage {coverage!r}; it must be 0 to 1")
    if weights is None:
        return
    if not isinstance(weights, list) or len(weights) != num_variations or not all(map(_is_share, weights)):
        _refuse(f"{key} needs one weight of 0 to 1 for each variation")
    if not math.isclose(math.fsum(weights), 1, abs_tol=WEIGHT_TOLERANCE, rel_tol=0):
        _refuse(f"{key} has weights that sum to {math.fsum(weights):g}, not to 1")


def _check_meta(meta: object, key: str, num_variations: int) -> None:
    if meta is None:
        return
    if not isinstance(meta, list) or len(meta) != num_variations or not all(isinstance(one, dict) for one in meta):
        _refuse(f"{key} needs one meta entry for each variation")
    for one in meta:
        _check_keys(one, META_KEYS, f"a meta entry of {key}")
    names = [one.get("key") for one in meta]
    if not all(isinstance(name, str) and KEY.fullmatch(name) for name in names):
        _refuse(f"{key} needs variation keys of 1 to 128 printable ASCII characters: they go into a header")
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        _refuse(f"{key} needs a variation key of its own in each meta entry")


def _check_filters(rule: Mapping[str, Any], key: str) -> None:
    filters = rule.get("filters") or []
    if not isinstance(filters, list) or not all(isinstance(one, dict) for one in filters):
        _refuse(f"{key} has filters that are not a list of filters")
    for one in filters:
        _check_keys(one, FILTER_KEYS, f"a filter of {key}")
        # the SDK's default is "id", which no request has: everybody would be left out
        if one.get("attribute") != HASH_ATTRIBUTE or one.get("hashVersion", HASH_VERSION) != HASH_VERSION:
            _refuse(f"{key} needs filters with attribute {HASH_ATTRIBUTE!r} and hashVersion {HASH_VERSION}")
        # one hash for both would give the lower buckets, and so the first arms, to whoever passes
        if one.get("seed") in (None, "", rule.get("seed") or key):
            _refuse(f"{key} needs a filter seed of its own, different from the experiment's")
        if not _are_ranges(one.get("ranges")):
            _refuse(f"{key} has a filter without ranges [from, to] within 0 to 1")


def _are_ranges(ranges: object) -> bool:
    return (
        isinstance(ranges, list)
        and bool(ranges)
        and all(isinstance(one, list) and len(one) == 2 and all(map(_is_share, one)) for one in ranges)
    )
