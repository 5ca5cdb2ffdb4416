"""The subset of GrowthBook's feature JSON that an experiment file may use: assignments stay unbiased and stable.

Refused, each with one sentence: the biased hash version 1 and the namespaces built on it, weights that do not sum to 1,
exclusion by the experiment's own hash, arms nobody serves, and every key this service would not honour (keys of sticky
buckets, which every export has, are ignored and said where the service keeps none). The models say what is allowed;
`SENTENCES` says what to tell whoever wrote something else (service/experiments/sentences.py).
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.experiments.conditions import MAX_UNBOUNDED, UNITS, slow_pattern, unknown_attribute

FEATURE = "recall_arm"
HASH_VERSION = 2
WEIGHT_TOLERANCE = 1e-6
INTERLEAVED = "interleaved"  # the variation of everybody in an interleaving, and what served them


class ExperimentKind(StrEnum):
    """The way in which an experiment compares its arms."""

    SPLIT = "split"  # each user has one arm
    INTERLEAVING = "interleaving"  # each user gets one list mixed out of those of both arms


def refusal(sentence: str) -> PydanticCustomError:
    """The error of a rule that is broken by several values together."""
    return PydanticCustomError("refused", "{sentence}", {"sentence": sentence})


def check_hash_version(version: object) -> object:
    if version != HASH_VERSION:
        raise ValueError
    return version


def check_hash_attribute(attribute: object) -> object:
    if attribute not in UNITS:
        raise ValueError
    return attribute


def check_served(arm: str, info: ValidationInfo) -> str:
    if arm not in (info.context or {})["arms"]:
        raise ValueError
    return arm


def check_range(bounds: list[float]) -> list[float]:
    if not bounds[0] < bounds[1]:
        raise ValueError
    return bounds


def refuse_always(_: object) -> None:
    raise ValueError


def empty_for_nothing(value: object) -> object:
    """GrowthBook writes null for an empty list."""
    return value or []


HeaderText = Annotated[str, StringConstraints(strict=True, pattern=r"^[!-~]{1,128}$")]
Text = Annotated[str, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Arm = Annotated[str, Field(strict=True), AfterValidator(check_served)]
HashVersion = Annotated[Any, AfterValidator(check_hash_version)]
HashAttribute = Annotated[Any, AfterValidator(check_hash_attribute)]
# the SDK looks for a bucket of every older version, at each request: 2^53 of them would hang it for ever
MAX_BUCKET_VERSION = 1000
BucketVersion = Annotated[int, Field(strict=True, ge=0, le=MAX_BUCKET_VERSION)]
Range = Annotated[list[Share], Field(strict=True, min_length=2, max_length=2), AfterValidator(check_range)]
STICKY_KEYS = ("bucketVersion", "minBucketVersion", "disableStickyBucketing")


class Strict(BaseModel):
    """The base of all parts: a key that the service would not honour is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Meta(Strict):
    """The name of a variation."""

    key: HeaderText
    name: Any = None


class Filter(Strict):
    """A share of the users, by a hash of its own: experiments with disjoint ranges of one seed exclude each other."""

    # the SDK's default attribute is "id", which no request has: everybody would be left out
    attribute: HashAttribute
    hashVersion: HashVersion = HASH_VERSION  # noqa: N815
    seed: Text = ""
    ranges: Annotated[list[Range], Field(strict=True, min_length=1)]


Condition = Annotated[dict[str, Any] | None, Field(strict=True)]
Filters = Annotated[list[Filter], Field(strict=True), BeforeValidator(empty_for_nothing)]


def check_condition(condition: dict[str, Any] | None, where: str) -> None:
    """Raises the refusal of a condition that no request could meet, or that a request could make take too long."""
    if unknown := unknown_attribute(condition or {}):
        raise refusal(
            f"{where} has a condition on {unknown!r}; requests have user_id and session_id, as text, and the "
            "attributes that they name, none inside another"
        )
    if (pattern := slow_pattern(condition or {})) is not None:
        raise refusal(
            f"{where} has the pattern {pattern[:80]!r}, which may take too long or is none; a repeat may hold no other "
            f"and no choice, and {MAX_UNBOUNDED} at most may be unbounded"
        )


class ForceRule(Strict):
    """A rule that gives everybody, or those of a condition, or a share of the users (a rollout), one arm."""

    force: Arm
    id: Any = None
    coverage: Share | None = None
    hashAttribute: Any = None  # noqa: N815
    hashVersion: Any = None  # noqa: N815  (nobody is analysed: the biased version does no harm)
    seed: Text = ""
    condition: Condition = None
    filters: Filters = []

    @property
    def is_rollout(self) -> bool:
        """True where it takes a share of the users, by their hash."""
        return self.coverage is not None and self.coverage < 1

    @model_validator(mode="after")
    def _is_of_users(self) -> Self:
        check_condition(self.condition, f"a force rule of {FEATURE}")
        # the SDK's default attribute is "id", which no request has: nobody would be taken
        if self.coverage is not None and self.hashAttribute not in UNITS:
            raise refusal(f"a force rule of {FEATURE} with a coverage needs hashAttribute {' or '.join(UNITS)}")
        return self


class Experiment(Strict):
    """A rule that splits the users among arms."""

    key: HeaderText
    kind: ExperimentKind = ExperimentKind.SPLIT  # not GrowthBook's: an export has none
    namespace: Annotated[Any, BeforeValidator(refuse_always)] = None
    hashVersion: HashVersion  # noqa: N815
    hashAttribute: HashAttribute  # noqa: N815
    phase: Text = ""
    seed: Text = ""
    name: Text = ""
    id: Text = ""
    variations: Annotated[list[Arm], Field(strict=True, min_length=2)]
    coverage: Share = 1
    weights: Annotated[list[Share], Field(strict=True)] | None = None
    meta: Annotated[list[Meta], Field(strict=True)] | None = None
    filters: Filters = []
    condition: Condition = None
    active: Annotated[bool, Field(strict=True)] = True  # false stops it: as if the rule was not there
    fallbackAttribute: Annotated[str | None, Field(strict=True)] = None  # noqa: N815  (whoever lacks the other)
    # GrowthBook writes these into exports; they count where the service keeps sticky buckets
    bucketVersion: BucketVersion | None = None  # noqa: N815  (users are chosen anew where it rises)
    minBucketVersion: BucketVersion | None = None  # noqa: N815  (whoever has an older bucket is left out)
    disableStickyBucketing: Annotated[bool | None, Field(strict=True)] = None  # noqa: N815
    tracks: Any = None  # of answers that a GrowthBook proxy has evaluated

    @property
    def fallback(self) -> str | None:
        """The attribute that is the unit of requests without `hashAttribute`; None where they are left out."""
        known = self.fallbackAttribute in UNITS and self.fallbackAttribute != self.hashAttribute
        # the SDK knows a fallback together with sticky buckets alone
        return self.fallbackAttribute if known and not self.disableStickyBucketing else None

    @property
    def units(self) -> tuple[str, ...]:
        """The attributes that may be its unit, in their order."""
        return (self.hashAttribute, self.fallback) if self.fallback else (self.hashAttribute,)

    def ignored(self, has_buckets: bool) -> list[str]:
        """The keys that are there and change nothing. has_buckets: the service keeps sticky buckets."""
        names = {"tracks"} if has_buckets else {"tracks", *STICKY_KEYS}
        return sorted(self.model_fields_set & (names if self.fallback else {*names, "fallbackAttribute"}))

    @model_validator(mode="after")
    def _condition_can_be_met(self) -> Self:
        check_condition(self.condition, self.key)
        return self

    @model_validator(mode="after")
    def _weights_are_shares_of_all(self) -> Self:
        if self.weights is None:
            return self
        if len(self.weights) != len(self.variations):
            raise refusal(f"{self.key} needs one weight of 0 to 1 for each variation")
        if not math.isclose(math.fsum(self.weights), 1, abs_tol=WEIGHT_TOLERANCE, rel_tol=0):
            raise refusal(f"{self.key} has weights that sum to {math.fsum(self.weights):g}, not to 1")
        return self

    @model_validator(mode="after")
    def _variations_have_names_of_their_own(self) -> Self:
        if self.meta is None:
            return self
        if len(self.meta) != len(self.variations):
            raise refusal(f"{self.key} needs one meta entry for each variation")
        if INTERLEAVED in {entry.key for entry in self.meta}:
            raise refusal(f"{self.key} has the variation key {INTERLEAVED!r}, which is that of every interleaved list")
        if len({entry.key for entry in self.meta}) < len(self.meta):
            raise refusal(f"{self.key} needs a variation key of its own in each meta entry")
        return self

    @model_validator(mode="after")
    def _two_arms_are_interleaved(self) -> Self:
        if self.kind is not ExperimentKind.INTERLEAVING:
            return self
        if len(self.variations) != 2 or self.variations[0] == self.variations[1]:
            raise refusal(f"{self.key} interleaves, and needs two variations that are different arms")
        if self.weights is not None and self.weights[0] != self.weights[1]:
            raise refusal(f"{self.key} interleaves: both arms have half of each list; leave the weights out")
        return self

    @model_validator(mode="after")
    def _filters_have_seeds_of_their_own(self) -> Self:
        # one hash for both would give the lower buckets, and so the first arms, to whoever passes
        if any(part.seed in ("", self.seed or self.key) for part in self.filters):
            raise refusal(f"{self.key} needs a filter seed of its own, different from the experiment's")
        return self

    @model_validator(mode="after")
    def _filters_are_of_its_unit(self) -> Self:
        if any(part.attribute != self.hashAttribute for part in self.filters):
            raise refusal(f"{self.key} needs filters with its own hashAttribute, {self.hashAttribute!r}")
        if self.filters and self.fallback:
            raise refusal(
                f"{self.key} has filters beside a fallbackAttribute: whoever has no {self.hashAttribute} passes none, "
                "and nobody would fall back"
            )
        return self

    def variation_key(self, index: int) -> str:
        """The name of a variation in headers and exposures: its own, or its number."""
        return self.meta[index].key if self.meta else str(index)


def kind_of(rule: object) -> str | None:
    """The tag of a rule; None = not a rule at all."""
    if not isinstance(rule, Mapping):
        return None
    return "force" if "force" in rule else "experiment"


Rule = Annotated[Annotated[ForceRule, Tag("force")] | Annotated[Experiment, Tag("experiment")], Discriminator(kind_of)]


class Feature(Strict):
    """The feature that chooses the arm."""

    defaultValue: Arm  # noqa: N815
    rules: Annotated[list[Rule], Field(strict=True), BeforeValidator(empty_for_nothing)] = []
    metadata: Any = None

    @property
    def experiments(self) -> list[Experiment]:
        return [rule for rule in self.rules if isinstance(rule, Experiment)]

    @model_validator(mode="after")
    def _experiments_have_keys_of_their_own(self) -> Self:
        keys = [experiment.key for experiment in self.experiments]
        if len(set(keys)) < len(keys):
            raise refusal(f"{FEATURE} has two experiments with the same key")
        return self
