"""The records of a report, which a program reads as JSON and page.py shows to people. Times are ms since 1970, UTC."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from service.experiments.verdict.judge import Lift, Verdict
from service.experiments.verdict.preference import Preferences


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """A bundle that answered users of a variation on their first request of a day."""

    bundle: str
    since_ms: int
    answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFacts:
    """The times of a variation's sampled answers, whatever answered; a list weighs 1 over its chance to be sampled."""

    answers: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFacts:
    """A variation as it was served. `served` counts first requests of a day by what answered them."""

    variation: str
    arms: tuple[str, ...]
    share: float  # planned
    users: int
    bundles: tuple[BundleFacts, ...]
    served: Mapping[str, int]
    settings: Mapping[str, Any] | None = None  # of the arm as the service describes it now; None = nobody was asked
    varied: Mapping[str, int] = field(default_factory=dict)  # exposures by what layers asked of the list, where any did
    latency: LatencyFacts | None = None  # None = no answer was sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposurePoint:
    """The users exposed by a moment, in each variation."""

    ts_ms: int
    users: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftPoint:
    """The primary metric's lift of a treatment, or the preference for it, as of a moment; a fraction if `relative`."""

    treatment: str
    ts_ms: int
    users: int
    relative: bool
    lift: Lift


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """The items that lists of a treatment and of the control have in common, and how many each has shown.

    share: of users who were split, of the impressions in sampled lists: the sum over items of the smaller share, 1 =
    the same items equally often. Of an interleaving, of the items in the two lists of one request.
    """

    treatment: str
    share: float
    control_items: int
    treatment_items: int
    lists: int  # of both


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a report says. While the sample ratio is red there is no lift in it, of any moment."""

    experiment: str
    phase: str
    config: tuple[str, ...]  # digests of the settings under which users were exposed
    since_ms: int
    until_ms: int
    testers: int
    moved: int
    primary: str
    arms: tuple[ArmFacts, ...]
    exposures: tuple[ExposurePoint, ...]
    verdict: Verdict | None  # of users who were split; an interleaving has `preferences`
    preferences: Preferences | None = None
    progress: tuple[LiftPoint, ...] = ()
    overlap: tuple[Overlap, ...] = ()
    lower_is_better: tuple[str, ...] = field(default=())

    @property
    def judged(self) -> Verdict | Preferences:
        """The verdict, of whichever kind the experiment is."""
        judged = self.verdict or self.preferences
        if judged is None:
            raise ValueError("a report has a verdict, or preferences")
        return judged

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
