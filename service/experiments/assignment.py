"""The assignment of users to arms: the GrowthBook SDK behind a strict reader of its feature JSON.

The SDK hashes and chooses (its core function, no network, about 10 us); the rules are checked first (rules.py), because
the SDK silently repairs or misreads bad ones: weights that do not sum to 1 become equal, a missing hashVersion means
the biased version 1, another hash attribute leaves everybody out. No store and no clock: an assignment holds for ever.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import structlog
from growthbook import Options, UserContext
from growthbook.common_types import EvaluationContext, GlobalContext, StackContext, features_from_dict
from growthbook.core import eval_feature

from service.errors import ConfigurationError, UnknownArm
from service.experiments.conditions import HASH_ATTRIBUTE
from service.experiments.rules import FEATURE, INTERLEAVED, Experiment, ExperimentKind
from service.experiments.sentences import check_feature
from service.experiments.together import check_follows, check_together

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


def unrepeated(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Raises ConfigurationError for a key that is there twice, of which one would count."""
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError(f"the experiment file {path} has the key {twice[:64]!r} twice in one object")
    return dict(pairs)


class Assigner:
    """Immutable; the feature is parsed once, every possible answer is built once."""

    def __init__(self, feature: Mapping[str, Any], arms: Collection[str]) -> None:
        checked = check_feature(feature, arms)
        check_together(checked)
        self._experiments = experiments = checked.experiments
        for experiment in experiments:
            if experiment.ignored:
                log.warning("experiment_keys_ignored", experiment=experiment.key, keys=experiment.ignored)
        self.config = blake2b(orjson.dumps(feature, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
        # of a stopped experiment the SDK knows nothing
        stopped = {number for number, rule in enumerate(checked.rules) if not getattr(rule, "active", True)}
        rules = [rule for number, rule in enumerate(feature.get("rules") or ()) if number not in stopped]
        self._context = GlobalContext(Options(), features_from_dict({FEATURE: {**feature, "rules": rules}}))
        self._outside = {reason: Assignment(feature["defaultValue"], reason, self.config) for reason in Reason}
        self._chosen = {
            (experiment.key, index): self._choose(experiment, index, Reason.EXPERIMENT)
            for experiment in experiments
            for index in range(len(experiment.variations))
        }
        self._forced = {arm: Assignment(arm, Reason.FORCED, self.config) for arm in arms}
        # the first rule that knows a name wins, and a variation's key goes before an arm's name
        for experiment in reversed(experiments):
            choices = [self._build(experiment, index, Reason.FORCED) for index in range(len(experiment.variations))]
            self._forced |= {choice.arm: choice for choice in choices}
            self._forced |= {choice.variation: choice for choice in choices if choice.variation}
            if experiment.kind is ExperimentKind.INTERLEAVING:
                self._forced[INTERLEAVED] = self._choose(experiment, 0, Reason.FORCED)

    @classmethod
    def from_file(cls, path: Path, arms: Collection[str]) -> "Assigner":
        """Raises ConfigurationError with one sentence that says what is wrong."""
        try:
            data = path.read_bytes()
            features = orjson.loads(data)
            json.loads(data, object_pairs_hook=partial(unrepeated, path))
        except OSError as error:
            raise ConfigurationError(f"the experiment file {path} cannot be read: {error.strerror}") from error
        except orjson.JSONDecodeError as error:
            raise ConfigurationError(f"the experiment file {path} is not JSON: {error}") from error
        return cls.from_features(features, arms, f"the experiment file {path}")

    @classmethod
    def from_features(cls, payload: object, arms: Collection[str], source: str = "what was given") -> "Assigner":
        """From `{"features": {"recall_arm": ...}}`; other features are other people's and not looked at.

        source: where it comes from, for the sentence of a refusal.
        """
        features = payload.get("features") if isinstance(payload, dict) else None
        feature = features.get(FEATURE) if isinstance(features, dict) else None
        if not isinstance(feature, dict):
            raise ConfigurationError(f"{source} has no features.{FEATURE}; its form is {FORM}")
        return cls(feature, arms)

    def check_follows(self, current: "Assigner") -> None:
        """Raises ConfigurationError where a user would change arm, were this put in force after `current`."""
        check_follows(self._experiments, current._experiments)

    def assign(self, unit: str | None, forced: str | None = None) -> Assignment:
        """The arm of `unit`: always the same under the same rules, and the same when only coverage rises.

        Raises UnknownArm when `forced` is neither a variation's key nor an arm.
        """
        if forced is not None:
            if forced not in self._forced:
                raise UnknownArm(f"no variation or arm is called {forced[:64]!r}")
            return self._forced[forced]
        # without a unit the SDK gets an empty text, which it puts in no experiment
        user = UserContext(attributes={HASH_ATTRIBUTE: unit or ""})
        result = eval_feature(FEATURE, EvaluationContext(user, self._context, StackContext()))
        if result.source == "experiment":
            return self._chosen[result.experiment.key, result.experimentResult.variationId]
        if result.source == "force":
            return Assignment(result.value, Reason.PINNED, self.config)
        if not any(experiment.active for experiment in self._experiments):
            return self._outside[Reason.NO_EXPERIMENT]
        return self._outside[Reason.NOT_IN_EXPERIMENT if unit else Reason.NO_UNIT]

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
