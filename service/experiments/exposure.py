"""The records of an experiment: who was exposed to which variation, which list was shown, who was forced.

Each kind has a stream of its own. An exposure follows the assignment, not the success: it is there for a fallback, for
a refusal and for a deadline that passed, and `served` says which. Its id is the same for a user, the settings and a
day, so that what is delivered twice counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson
from numpy.typing import NDArray

from model.catalogue import ExternalId
from service.experiments.assignment import Assignment

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A user who asked under an experiment: what was assigned (analysed) and what was served (intent to treat)."""

    id: str
    experiment: str
    phase: str
    config: str = ""  # digest of the experiments' settings
    unit: str
    variation: str = ""  # its key: two variations may be one arm
    assigned: str
    served: str  # an arm, "fallback", or the status of a request that got no list: "429", "504" ..
    reason: str
    request_id: str
    bundle: str  # "" where nothing was served
    ts_ms: int

    @classmethod
    def from_json(cls, data: bytes) -> "Exposure":
        """From the field `e` of a stream entry."""
        return cls(**orjson.loads(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The list of a sampled answer, best first: the n-th item and score belong to position n."""

    request_id: str
    experiment: str
    phase: str
    config: str
    unit: str
    variation: str
    served: str
    bundle: str
    ts_ms: int
    share: float  # the chance that an answer is sampled: its weight is 1 / share
    items: Sequence[ExternalId] | NDArray[Any]
    scores: Sequence[float] | NDArray[Any]
    asked: int = 0  # items that the request wanted; a list may be shorter
    took_ms: float = 0.0  # until the answer was there

    @classmethod
    def from_json(cls, data: bytes) -> "Shown":
        """From the field `e` of a stream entry."""
        fields: dict[str, Any] = orjson.loads(data)
        return cls(**fields | {"items": tuple(fields["items"]), "scores": tuple(fields["scores"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Interleaved:
    """An interleaved answer, each of them: of each item the team it was taken from. Feedback is credited by it."""

    request_id: str
    experiment: str
    phase: str
    config: str
    unit: str
    served: str  # as in an exposure
    bundle: str  # of both arms
    ts_ms: int
    teams: tuple[str, ...]  # the keys of the two variations
    picks: tuple[int, ...]  # by position: 0 or 1, a place in `teams`
    in_both: int  # items that both lists held
    items: Sequence[ExternalId] | NDArray[Any]

    @classmethod
    def from_json(cls, data: bytes) -> "Interleaved":
        """From the field `e` of a stream entry."""
        fields: dict[str, Any] = orjson.loads(data)
        return cls(**fields | {name: tuple(fields[name]) for name in ("teams", "picks", "items")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed:
    """The list of a shadow arm beside the one that was shown: computed for the same request, and shown to nobody."""

    request_id: str
    experiment: str
    phase: str
    config: str
    unit: str
    variation: str
    served: str  # as in an exposure
    bundle: str
    ts_ms: int
    share: float  # the chance that a request is computed by the shadow arm too
    items: Sequence[ExternalId] | NDArray[Any]  # that were shown
    shadow: str  # the arm
    shadow_bundle: str
    shadow_items: Sequence[ExternalId] | NDArray[Any]
    shadow_scores: Sequence[float] | NDArray[Any]
    asked: int
    shadow_took_ms: float

    @classmethod
    def from_json(cls, data: bytes) -> "Shadowed":
        """From the field `e` of a stream entry."""
        fields: dict[str, Any] = orjson.loads(data)
        return cls(**fields | {name: tuple(fields[name]) for name in ("items", "shadow_items", "shadow_scores")})


def exposure_id(assignment: Assignment, unit: str, ts_ms: int) -> str:
    """The same for every request of this unit, under these settings, on this day (UTC)."""
    # the config is part of it: after a change of the settings a user is exposed to them anew
    parts = [assignment.experiment, assignment.phase, assignment.config, unit, assignment.variation, ts_ms // DAY_MS]
    return blake2b(orjson.dumps(parts), digest_size=16).hexdigest()
