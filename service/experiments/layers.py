"""Layers: experiments on how an arm is set, across those that choose it.

`recall_arm` gives a unit its arm. A feature `recall_settings`, or several of the names `recall_settings_NAME`, says by
experiments of its own which bundle answers in that arm's place, or what its lists are asked for: values are objects of
arms, {"recgpt": "recgpt_two"} or {"recgpt": {"outcome": "like", "diversity": 0.2}}.
Each feature hashes by other seeds, so that a unit's variation in one says nothing of that in another, and each
experiment is read as if it was alone. Counted are those whose arm one of its variations changes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, Self

import orjson
from pydantic import Field, ValidationError

from service.errors import ConfigurationError
from service.experiments.conditions import NO_FACTS, RequestFacts
from service.experiments.rules import FEATURE, Experiment, ExperimentKind, Feature, Strict
from service.experiments.together import filter_seeds, hash_seeds

if TYPE_CHECKING:
    from service.experiments.assignment import Assignment

SETTINGS = "recall_settings"
SWAP = '{"arm": .., "outcome": a text, "diversity": 0 to 1}'


class Swap(Strict):
    """The value of one arm: what answers in its place, and what its lists are asked for; None = what it is without."""

    arm: Annotated[str | None, Field(strict=True)] = None
    outcome: Annotated[str | None, Field(strict=True, min_length=1)] = None
    diversity: Annotated[float | None, Field(strict=True, ge=0, le=1)] = None

    @property
    def named(self) -> frozenset[str]:
        """The parts that it names, None among them: the parts that an experiment with it varies."""
        return frozenset(self.model_fields_set)


Swaps = Mapping[str, Swap]


class ArmSettings(NamedTuple):
    """The settings of lists that layers give an arm; a request's own go before them."""

    outcome: str | None = None
    diversity: float = 0.0

    def under(self, swap: Swap) -> "ArmSettings":
        """The same with what one more layer says."""
        return ArmSettings(swap.outcome or self.outcome, swap.diversity or self.diversity)

    @property
    def text(self) -> str:
        """The settings as exposures have them."""
        return orjson.dumps({name: value for name, value in self._asdict().items() if value}).decode()


class LayerAssigner(Protocol):
    """Chooses the value of one feature of settings, as a text (Assigner)."""

    @property
    def checked(self) -> Feature: ...
    @property
    def config(self) -> str: ...
    @property
    def bucket_units(self) -> tuple[str, ...]: ...

    def without(self, paused: Collection[tuple[str, str]]) -> Self: ...

    def assign(self, user: str | None, forced: str | None = None, facts: RequestFacts = NO_FACTS) -> "Assignment": ...


def digest_of(content: object) -> str:
    return blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def is_layer(name: str) -> bool:
    """True for the name of a feature of settings."""
    return name == SETTINGS or name.startswith(f"{SETTINGS}_")


def read_layers(features: Mapping[str, Any], arms: Collection[str] | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The name of each feature of settings, and the feature with its values as texts.

    arms: those that are served; None = whatever the values name. Raises ConfigurationError for other values.
    """
    for name, feature in features.items():
        if not is_layer(name):
            continue
        if not isinstance(feature, Mapping) or not isinstance(feature.get("rules") or [], list):
            raise ConfigurationError(f"experiments: {name} is no feature with a defaultValue and a list of rules")
        rules = [_rule(name, rule, arms) for rule in feature.get("rules") or []]
        yield name, {**feature, "defaultValue": _text(name, feature.get("defaultValue", {}), arms), "rules": rules}


def values_of(feature: Mapping[str, Any]) -> frozenset[str]:
    """The texts among its values; what is none is refused where rules are checked."""
    rules = [rule for rule in feature["rules"] if isinstance(rule, Mapping)]
    tried = [value for rule in rules for value in (rule.get("variations") or [rule.get("force")])]
    return frozenset({feature["defaultValue"], *(value for value in tried if isinstance(value, str))})


@cache
def swaps_of(text: str) -> Swaps:
    """Reads the value that a text stands for."""
    return {arm: read_swap(value) for arm, value in orjson.loads(text).items()}


def read_swap(value: object) -> Swap:
    """The value of one arm: the name of another, or an object. Raises ValidationError for what is neither."""
    return Swap.model_validate({"arm": value} if isinstance(value, str) else value)


def _rule(name: str, rule: object, arms: Collection[str] | None) -> object:
    """The rule with texts for values; what else is wrong with it is said where rules are checked."""
    if not isinstance(rule, Mapping):
        return rule
    if "force" in rule:
        return {**rule, "force": _text(name, rule["force"], arms)}
    if rule.get("kind", ExperimentKind.SPLIT) != ExperimentKind.SPLIT:
        raise ConfigurationError(f"experiments: {rule.get('key')} interleaves, which only rules of {FEATURE} do")
    values = rule.get("variations")
    if not isinstance(values, list):
        return rule
    return {**rule, "variations": [_text(name, value, arms) for value in values]}


def _text(name: str, value: object, arms: Collection[str] | None) -> str:
    try:
        swaps = {arm: read_swap(own) for arm, own in value.items()} if isinstance(value, Mapping) else None
    except ValidationError:
        swaps = None
    named = {None} if swaps is None else {*swaps, *(swap.arm for swap in swaps.values() if swap.arm is not None)}
    if not all(isinstance(arm, str) and (arms is None or arm in arms) for arm in named):
        raise ConfigurationError(
            f"experiments: {name} has the value {str(value)[:100]}; it takes an object of arms and of what answers in "
            f"their place, both of {', '.join(sorted(arms or ()))}; or, to set how an arm answers, {SWAP}"
        )
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


@dataclass(frozen=True)
class Layer:
    """One feature of settings."""

    name: str
    assigner: LayerAssigner

    @property
    def feature(self) -> Feature:
        return self.assigner.checked

    @property
    def values(self) -> list[Swaps]:
        """Every value that somebody may get, those of stopped experiments too: they may be started again."""
        forced = [rule.force for rule in self.feature.rules if not isinstance(rule, Experiment)]
        tried = [value for experiment in self.feature.experiments for value in experiment.variations]
        return [swaps_of(value) for value in (self.feature.defaultValue, *forced, *tried)]

    @cached_property
    def changed(self) -> Mapping[str | None, frozenset[str]]:
        """Experiment -> the arms that one of its variations changes."""
        return {
            experiment.key: frozenset(arm for value in experiment.variations for arm in swaps_of(value))
            for experiment in self.feature.experiments
        }

    def without(self, paused: Collection[tuple[str, str]]) -> "Layer":
        assigner = self.assigner.without(paused)
        return self if assigner is self.assigner else Layer(self.name, assigner)


def across(layers: Sequence[Layer], chosen: "Assignment", user: str | None, facts: RequestFacts) -> "Assignment":
    """The assignment with what the layers say of its arm. The two arms of one list stay what they are."""
    if not layers or chosen.teams:
        return chosen
    arm, settings, crossed, degraded = chosen.arm, ArmSettings(), list["Assignment"](), list(chosen.degraded)
    for layer in layers:
        own = layer.assigner.assign(user, None, facts)
        # nobody is counted whose answer is the same in every variation
        if own.in_experiment and chosen.arm in layer.changed[own.experiment]:
            crossed.append(own)
        if swap := swaps_of(own.arm).get(chosen.arm):
            arm, settings = swap.arm or arm, settings.under(swap)
        degraded += [cause for cause in own.degraded if cause not in degraded]
    told = settings if any(settings) else None
    same_arm = tuple(replace(own, arm=arm, settings=told, degraded=()) for own in crossed)
    return replace(chosen, arm=arm, settings=told, degraded=tuple(degraded), crossed=same_arm)


def check_layers(choosing: Feature, layers: Sequence[Layer]) -> None:
    """Raises ConfigurationError for features that would decide the same, or one the other."""
    features = {FEATURE: choosing, **{layer.name: layer.feature for layer in layers}}
    keys: dict[str, str] = {}
    seeds: dict[str, str] = {}
    for name, feature in features.items():
        for experiment in feature.experiments:
            if other := keys.get(experiment.key):
                raise ConfigurationError(
                    f"experiments: {other} and {name} have an experiment with the key {experiment.key!r}"
                )
            keys[experiment.key] = name
        for seed in hash_seeds(feature):
            if other := seeds.get(seed):
                raise ConfigurationError(
                    f"experiments: {other} and {name} have rules with one seed, {seed!r}: the variation in one would "
                    "decide that in the other; give one of them a seed of its own"
                )
        seeds |= dict.fromkeys(hash_seeds(feature), name)
    for name, feature in features.items():
        if shared := next((seed for seed in filter_seeds(feature) if seed in seeds), None):
            raise ConfigurationError(
                f"experiments: a filter of {name} has the seed of a rule of {seeds[shared]}, {shared!r}; give the "
                "filters a seed of their own"
            )
    _check_swaps(choosing, layers)


def _check_swaps(choosing: Feature, layers: Sequence[Layer]) -> None:
    given = {choosing.defaultValue}.union(
        *(rule.variations if isinstance(rule, Experiment) else [rule.force] for rule in choosing.rules)
    )
    parts: dict[tuple[str, str], str] = {}
    for layer in layers:
        named = {(arm, part) for swaps in layer.values for arm, swap in swaps.items() for part in swap.named}
        for arm, part in sorted(named):
            if other := parts.get((arm, part)):
                what = f"what answers for {arm}" if part == "arm" else f"the {part} of {arm}"
                raise ConfigurationError(f"experiments: {other} and {layer.name} both say {what}")
            parts[arm, part] = layer.name
    swapped = {arm: layer for (arm, _), layer in parts.items()}
    for layer in layers:
        for arm, own in sorted({(arm, swap.arm or arm) for swaps in layer.values for arm, swap in swaps.items()}):
            if own != arm and (own in given or own in swapped):
                where = FEATURE if own in given else swapped[own]
                raise ConfigurationError(
                    f"experiments: {layer.name} gives {own} in place of {arm}, and {where} has {own} as an arm of its "
                    "own: a variation would hold users of another"
                )
