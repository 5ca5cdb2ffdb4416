"""The subset of GrowthBook's feature JSON that an experiment file may use: assignments stay unbiased and stable.

Refused, each with one sentence: the biased hash version 1 and the namespaces built on it, weights that do not sum to 1,
exclusion by the experiment's own hash, arms nobody serves, and every key this service would not honour (keys of sticky
buckets, which every export has, are ignored and said). The models say what is allowed; `SENTENCES` says what to tell
whoever wrote something else.
"""

import math
from collections.abc import Collection, Mapping
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
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from service.errors import ConfigurationError

FEATURE = "recall_arm"
HASH_ATTRIBUTE = "user_id"
HASH_VERSION = 2
WEIGHT_TOLERANCE = 1e-6


def refusal(sentence: str) -> PydanticCustomError:
    """The error of a rule that is broken by several values together."""
    return PydanticCustomError("refused", "{sentence}", {"sentence": sentence})


def check_hash_version(version: object) -> object:
    if version != HASH_VERSION:
        raise ValueError
    return version


def check_hash_attribute(attribute: object) -> object:
    if attribute != HASH_ATTRIBUTE:
        raise ValueError
    return attribute


def check_served(arm: str, info: ValidationInfo) -> str:
    if arm not in (info.context or {})["arms"]:
        raise ValueError
    return arm


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
Range = Annotated[list[Share], Field(strict=True, min_length=2, max_length=2)]


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
    seed: Any = None
    ranges: Annotated[list[Range], Field(strict=True, min_length=1)]


class ForceRule(Strict):
    """A rule that gives everybody one arm."""

    force: Arm
    id: Any = None


class Experiment(Strict):
    """A rule that splits the users among arms."""

    key: HeaderText
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
    filters: Annotated[list[Filter], Field(strict=True), BeforeValidator(empty_for_nothing)] = []
    # GrowthBook writes these into every export; they belong to sticky buckets, and here the hash alone decides
    bucketVersion: Any = None  # noqa: N815
    minBucketVersion: Any = None  # noqa: N815

    @property
    def ignored(self) -> list[str]:
        """The keys that are there and change nothing."""
        return sorted(self.model_fields_set & {"bucketVersion", "minBucketVersion"})

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
        if len({entry.key for entry in self.meta}) < len(self.meta):
            raise refusal(f"{self.key} needs a variation key of its own in each meta entry")
        return self

    @model_validator(mode="after")
    def _filters_have_seeds_of_their_own(self) -> Self:
        # one hash for both would give the lower buckets, and so the first arms, to whoever passes
        if any(part.seed in (None, "", self.seed or self.key) for part in self.filters):
            raise refusal(f"{self.key} needs a filter seed of its own, different from the experiment's")
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


ARM = "{where} names the arm {value!r}, and served are {arms}"
META_KEY = "{where} needs variation keys of 1 to 128 printable ASCII characters: they go into a header"
FILTER_HASH = f"{{where}} needs filters with attribute {HASH_ATTRIBUTE!r} and hashVersion {HASH_VERSION}"
NOT_TEXT = "{where} has a {field} that is not a string"
# The sentence for each place, without the numbers of lists; the longest place that fits counts.
SENTENCES = {
    "defaultValue": f"{FEATURE}.defaultValue names the arm {{value!r}}, and served are {{arms}}",
    "rules": f"{FEATURE}.rules is not a list of rules",
    "rules.force.force": ARM,
    "rules.experiment.key": (
        f"a rule of {FEATURE} needs a key of 1 to 128 printable ASCII characters: it goes into a header"
    ),
    "rules.experiment.namespace": ("{where} uses a namespace, which hashes with the biased version 1; use filters"),
    "rules.experiment.hashVersion": f"{{where}} has hashVersion {{value}}; only {HASH_VERSION} is unbiased",
    "rules.experiment.hashAttribute": (
        f"{{where}} has hashAttribute {{value!r}}; the service knows only {HASH_ATTRIBUTE!r}"
    ),
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
    "rules.experiment.filters.ranges": "{where} has a filter without ranges [from, to] within 0 to 1",
}


def check_feature(feature: Mapping[str, Any], arms: Collection[str]) -> Feature:
    """The feature, checked. Raises ConfigurationError for the first thing that is wrong with it."""
    try:
        return Feature.model_validate(feature, context={"arms": frozenset(arms)})
    except ValidationError as error:
        problems = error.errors(include_url=False)
    raise ConfigurationError(f"experiments: {_sentence(min(problems, key=_rank), feature, arms)}")


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
