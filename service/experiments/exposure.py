"""The records of an experiment: who was exposed to which variation, which list was shown, who was forced.

Each kind has a stream of its own. An exposure follows the assignment, not the success: it is there for a fallback, for
a refusal and for a deadline that passed, and `served` says which. Its id is the same for a user, the settings and a
day, so that what is delivered twice counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self, TypedDict

import orjson
from numpy.typing import NDArray

from model.catalogue import ExternalId
from service.experiments.assignment import Assignment

DAY_MS = 86_400_000
Ids = Sequence[ExternalId] | NDArray[Any]


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
    settings: str = ""  # of the list, that layers of the experiments give: JSON, such as {"outcome":"like"}

    @classmethod
    def from_json(cls, data: bytes) -> "Exposure":
        """From the field `e` of a stream entry."""
        return cls(**orjson.loads(data))


class ListFacts(TypedDict):
    """Everything that each event of a list has, by field."""

    request_id: str
    experiment: str
    phase: str
    config: str
    unit: str
    served: str  # as in an exposure
    bundle: str
    ts_ms: int
    items: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEvent:
    """An answer's list, best first, as `ListFacts` names its fields."""

    request_id: str
    experiment: str
    phase: str
    config: str
    unit: str
    served: str
    bundle: str
    ts_ms: int
    items: Ids

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """From the field `e` of a stream entry."""
        fields: dict[str, Any] = dict(orjson.loads(data))
        return cls(**fields | {name: tuple(value) for name, value in fields.items() if isinstance(value, list)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown(ListEvent):
    """The list of a sampled answer: the n-th item and score belong to position n."""

    variation: str
    share: float  # the chance that an answer is sampled: its weight is 1 / share
    scores: Sequence[float] | NDArray[Any]
    asked: int = 0  # items that the request wanted; a list may be shorter
    took_ms: float = 0.0  # until the answer was there


@dataclass(frozen=True, slots=True, kw_only=True)
class Interleaved(ListEvent):
    """An interleaved answer, each of them: of each item the team it was taken from. Feedback is credited by it.

    Its bundle is that of both arms.
    """

    teams: tuple[str, ...]  # the keys of the two variations
    picks: tuple[int, ...]  # by position: 0 or 1, a place in `teams`
    in_both: int  # items that both lists held


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed(ListEvent):
    """The list of a shadow arm beside the one that was shown: computed for the same request, and shown to nobody."""

    variation: str
    share: float  # the chance that a request is computed by the shadow arm too
    shadow: str  # the arm
    shadow_bundle: str
    shadow_items: Ids
    shadow_scores: Sequence[float] | NDArray[Any]
    asked: int
    shadow_took_ms: float


def exposure_id(assignment: Assignment, unit: str, ts_ms: int) -> str:
    """The same for every request of this unit, under these settings, on this day (UTC)."""
    # the config is part of it: after a change of the settings a user is exposed to them anew
    parts = [assignment.experiment, assignment.phase, assignment.config, unit, assignment.variation, ts_ms // DAY_MS]
    return blake2b(orjson.dumps(parts), digest_size=16).hexdigest()
