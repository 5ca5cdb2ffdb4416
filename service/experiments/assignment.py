"""The assignment of users to arms: the GrowthBook SDK behind a strict reader of its feature JSON.

The SDK hashes and chooses (its core function, no network, about 10 us); the rules are checked first (rules.py), because
the SDK silently repairs or misreads bad ones: weights that do not sum to 1 become equal, a missing hashVersion means
the biased version 1, another hash attribute leaves everybody out. No store and no clock: an assignment holds for ever,
and where buckets are kept (decision 70) those that a unit has are given with its request.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import orjson
import structlog
from growthbook import InMemoryStickyBucketService, Options, UserContext
from growthbook.common_types import EvaluationContext, GlobalContext, StackContext, features_from_dict
from growthbook.core import eval_feature

from service.errors import ConfigurationError, UnknownArm
from service.experiments.conditions import NO_FACTS, SESSION, UNITS, USER, Buckets, RequestFacts, unit_key
from service.experiments.layers import ArmSettings, Layer, across, check_layers, digest_of, read_layers, values_of
from service.experiments.rules import FEATURE, INTERLEAVED, Experiment, ExperimentKind
from service.experiments.sentences import check_feature, unrepeated
from service.experiments.together import check_effort, check_follows, check_together

log = structlog.get_logger()
DEFAULT_FILE = Path(__file__).parent / "default.json"
FORM = f'{{"features": {{"{FEATURE}": {{"defaultValue": ARM, "rules": [..]}}}}}} (docs/experiments.md)'


class Reason(StrEnum):
    """The reason why a user has this arm."""

    EXPERIMENT = "experiment"
    FORCED = "forced"  # asked for by a QA key; never analysed
    NO_UNIT = "no_unit"
    NOT_IN_EXPERIMENT = "not_in_experiment"
    NO_EXPERIMENT = "no_experiment"
    PINNED = "pinned"  # a force rule: everybody gets this arm
    NOT_INTERLEAVED = "not_interleaved"  # the request asks for what a list out of two lists cannot keep


BUCKETS_UNAVAILABLE = "buckets_unavailable"  # why an answer may have another arm than the one before


class Team(NamedTuple):
    """A side of an interleaving."""

    variation: str
    arm: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """The arm of one unit. What is served may differ (a fallback); what is analysed is this."""

    arm: str
    reason: Reason
    config: str  # digest of the rules it was made with
    experiment: str | None = None
    phase: str = ""
    variation: str | None = None  # the variation's key, for the X-AB-Bucket header
    teams: tuple[Team, ...] = ()  # the two arms whose lists become one; then `arm` is none that is served
    by: str = USER  # the attribute that is its unit
    bucket: tuple[str, str] | None = None  # to keep for that unit, where buckets are: its name, and the variation's key
    degraded: tuple[str, ...] = ()  # why it is less sure than it could be
    crossed: "tuple[Assignment, ...]" = ()  # in other layers, with the same arm (layers.py)
    settings: ArmSettings | None = None  # that layers give the arm's list; None = none

    @property
    def in_experiment(self) -> bool:
        return self.reason is Reason.EXPERIMENT

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that are asked: one, or those of the teams."""
        return tuple(team.arm for team in self.teams) or (self.arm,)

    def alone(self) -> "Assignment":
        """The control's arm outside the experiment, for a request that cannot be interleaved."""
        return Assignment(self.teams[0].arm, Reason.NOT_INTERLEAVED, self.config)

    def of(self, team: Team) -> "Assignment":
        """The assignment under which one of the two lists is made."""
        return replace(self, arm=team.arm, teams=())


def keep_nothing(_: dict[str, Any]) -> None:
    """Stands where the SDK would write a unit's buckets: an assignment is a function of what it is given."""


def new_bucket(assignment: Assignment, unit: str, kept: Mapping[str, Buckets]) -> tuple[str, str] | None:
    """The bucket that has to be kept for a unit, by its key; None where it is kept already, or none is."""
    bucket = assignment.bucket
    if bucket is None or kept.get(unit_key(assignment.by, unit), {}).get(bucket[0]) == bucket[1]:
        return None
    return bucket


class Assigner:
    """Immutable; the feature is parsed once, every possible answer is built once."""

    def __init__(
        self,
        feature: Mapping[str, Any],
        arms: Collection[str],
        has_buckets: bool = False,
        layers: Sequence[Layer] = (),
    ) -> None:
        """has_buckets: the service keeps sticky buckets, and reads those of `bucket_units` for each request. layers:
        what answers in an arm's place.
        """
        self.checked = checked = check_feature(feature, arms)
        self._single = check_together(checked)
        check_layers(checked, layers)
        self._feature, self._arms, self._layers = feature, arms, layers
        self._experiments = experiments = checked.experiments
        self._has_buckets = has_buckets
        for experiment in experiments:
            if ignored := experiment.ignored(has_buckets):
                log.warning("experiment_keys_ignored", experiment=experiment.key, keys=ignored)
        active = [experiment for experiment in experiments if experiment.active]
        self._units = frozenset(unit for experiment in active for unit in experiment.units)
        sticky = [experiment for experiment in active if has_buckets and not experiment.disableStickyBucketing]
        # nothing is read for experiments that keep nothing
        kept = {unit for experiment in sticky for unit in experiment.units}
        self.bucket_units = tuple(
            unit for unit in UNITS if unit in kept or any(unit in layer.assigner.bucket_units for layer in layers)
        )
        self.config = digest_of(feature)  # the one of these rules, which its assignments name
        # of a stopped experiment the SDK knows nothing
        rules = [
            self._rule(written, rule) if isinstance(rule, Experiment) else written
            for written, rule in zip(feature.get("rules") or (), checked.rules, strict=True)
            if not isinstance(rule, Experiment) or rule.active
        ]
        # the service that it asks for is never used: buckets are given with each request, and kept by the caller
        options = Options(sticky_bucket_service=InMemoryStickyBucketService())
        self._context = GlobalContext(options, features_from_dict({FEATURE: {**feature, "rules": rules}}))
        self._outside = {reason: Assignment(feature["defaultValue"], reason, self.config) for reason in Reason}
        self._chosen = {
            (experiment.key, index, unit): replace(
                self._choose(experiment, index, Reason.EXPERIMENT), by=unit, bucket=self._bucket(experiment, index)
            )
            for experiment in experiments
            for index in range(len(experiment.variations))
            for unit in experiment.units
        }
        self._forced = self._force(arms)

    @classmethod
    def from_file(cls, path: Path, arms: Collection[str], has_buckets: bool = False) -> "Assigner":
        """Raises ConfigurationError with one sentence that says what is wrong."""
        source = f"the experiment file {path}"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{source} cannot be read: {error.strerror}") from error
        return cls.from_bytes(data, arms, source, has_buckets)

    @classmethod
    def from_bytes(cls, data: bytes, arms: Collection[str], source: str, has_buckets: bool = False) -> "Assigner":
        """The same from JSON that was read already."""
        try:
            features = orjson.loads(data)
            json.loads(data, object_pairs_hook=partial(unrepeated, source))
        except orjson.JSONDecodeError as error:
            raise ConfigurationError(f"{source} is not JSON: {error}") from error
        return cls.from_features(features, arms, source, has_buckets)

    @classmethod
    def from_features(
        cls, payload: object, arms: Collection[str], source: str = "what was given", has_buckets: bool = False
    ) -> "Assigner":
        """From `{"features": {"recall_arm": ..}}` and its layers (layers.py); other features are not looked at.

        source: where it comes from, for the sentence of a refusal.
        """
        features = payload.get("features") if isinstance(payload, dict) else None
        if not isinstance(features, dict) or not isinstance(feature := features.get(FEATURE), dict):
            raise ConfigurationError(f"{source} has no features.{FEATURE}; its form is {FORM}")
        layers, effort = [], 0
        for name, own in read_layers(features, arms):
            try:
                layers.append(Layer(name, cls(own, values_of(own), has_buckets)))
                effort = check_effort(layers[-1].feature, effort)
            except ConfigurationError as error:
                # an experiment's own name may begin like that
                raise ConfigurationError(re.sub(rf"\b{FEATURE}\b", name.replace("\\", r"\\"), str(error))) from error
        return cls(feature, arms, has_buckets, layers)

    @property
    def digest(self) -> str:
        """Digest of all that is in force, other layers too."""
        inner = {layer.name: layer.assigner.config for layer in self._layers}
        return digest_of([self.config, inner]) if inner else self.config

    @property
    def experiments(self) -> list[Experiment]:
        """The experiments of every layer."""
        return [*self._experiments, *(own for layer in self._layers for own in layer.feature.experiments)]

    def check_follows(self, current: "Assigner") -> None:
        """Raises ConfigurationError where a user would change arm, were this put in force after `current`."""
        check_follows(self.experiments, current.experiments, self._has_buckets)

    def without(self, paused: Collection[tuple[str, str]]) -> Self:
        """The same with these experiments (key, phase) stopped, as `"active": false` would."""
        stopped = {own.key for own in self._experiments if own.active and (own.key, own.phase) in paused}
        layers = [layer.without(paused) for layer in self._layers]
        if not stopped and layers == list(self._layers):
            return self
        rules = self._feature.get("rules") or ()
        left = [{**rule, "active": False} if rule.get("key") in stopped else rule for rule in rules]
        return type(self)({**self._feature, "rules": left}, self._arms, self._has_buckets, layers)

    def assign(self, user: str | None, forced: str | None = None, facts: RequestFacts = NO_FACTS) -> Assignment:
        """The arm of a request: always the same for its unit under the same rules, and when only coverage rises.

        Raises UnknownArm when `forced` is neither a variation's key nor an arm.
        """
        if forced is not None:
            if forced not in self._forced:
                raise UnknownArm(f"no variation or arm is called {forced[:64]!r}")
            return self._forced[forced]
        return across(self._layers, self._choose_arm(user, facts), user, facts)

    def _choose_arm(self, user: str | None, facts: RequestFacts) -> Assignment:
        ids = {name: unit for name, unit in ((USER, user), (SESSION, facts.session)) if unit}
        kept = facts.kept or {}
        documents = {key: {"assignments": dict(buckets)} for key, buckets in kept.items()}
        attributes = facts.attributes
        if not self._single.isdisjoint(attributes):
            # a list may meet two conditions that one value cannot: then it says nothing
            attributes = {
                name: value
                for name, value in attributes.items()
                if name not in self._single or not isinstance(value, list)
            }
        context = UserContext(attributes={**attributes, **ids}, sticky_bucket_assignment_docs=documents)
        result = eval_feature(FEATURE, EvaluationContext(context, self._context, StackContext(), keep_nothing))
        if result.source == "experiment":
            own = result.experimentResult
            chosen = self._chosen[result.experiment.key, own.variationId, own.hashAttribute]
            is_unsure = chosen.bucket is not None and facts.kept is None
            return replace(chosen, bucket=None, degraded=(BUCKETS_UNAVAILABLE,)) if is_unsure else chosen
        if result.source == "force":
            return Assignment(result.value, Reason.PINNED, self.config)
        if not self._units:
            return self._outside[Reason.NO_EXPERIMENT]
        return self._outside[Reason.NO_UNIT if self._units.isdisjoint(ids) else Reason.NOT_IN_EXPERIMENT]

    def _rule(self, written: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
        """The rule as the SDK gets it: variations have keys, and buckets are looked at where they decide something."""
        meta = [{"key": experiment.variation_key(index)} for index in range(len(experiment.variations))]
        # without kept buckets they are empty, and a fallback works all the same
        is_sticky = self._has_buckets or experiment.fallback is not None
        return {
            **written,
            "meta": meta,
            "fallbackAttribute": experiment.fallback,
            "disableStickyBucketing": experiment.disableStickyBucketing or not is_sticky,
        }

    def _force(self, arms: Collection[str]) -> dict[str, Assignment]:
        """The assignment of each name that a tester may force."""
        forced = {arm: Assignment(arm, Reason.FORCED, self.config) for arm in arms}
        # the first rule that knows a name wins, and a variation's key goes before an arm's name
        for experiment in reversed(self._experiments):
            built = [self._build(experiment, index, Reason.FORCED) for index in range(len(experiment.variations))]
            # a tester is left out of the analysis as the unit that the experiment counts
            choices = [replace(choice, by=experiment.hashAttribute) for choice in built]
            forced |= {choice.arm: choice for choice in choices}
            forced |= {choice.variation: choice for choice in choices if choice.variation}
            if experiment.kind is ExperimentKind.INTERLEAVING:
                forced[INTERLEAVED] = self._choose(experiment, 0, Reason.FORCED)
        return forced

    def _bucket(self, experiment: Experiment, index: int) -> tuple[str, str] | None:
        """The bucket that a unit of the variation has from now on; None where none is kept."""
        if not self._has_buckets or experiment.disableStickyBucketing:
            return None
        return f"{experiment.key}__{experiment.bucketVersion or 0}", experiment.variation_key(index)

    def _choose(self, experiment: Experiment, index: int, reason: Reason) -> Assignment:
        """The assignment of a user whom the hash gives that variation: in an interleaving all have the same."""
        if experiment.kind is ExperimentKind.SPLIT:
            return self._build(experiment, index, reason)
        keys = map(experiment.variation_key, range(len(experiment.variations)))
        teams = tuple(map(Team, keys, experiment.variations))
        return Assignment(INTERLEAVED, reason, self.config, experiment.key, experiment.phase, INTERLEAVED, teams)

    def _build(self, experiment: Experiment, index: int, reason: Reason) -> Assignment:
        arm, variation = experiment.variations[index], experiment.variation_key(index)
        return Assignment(arm, reason, self.config, experiment.key, experiment.phase, variation)
