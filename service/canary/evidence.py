"""The answers of a canary and of the bundle in force, side by side, and the judgement on them."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from service.engine.releases import CanaryTerms

# so many are seen before a bound may end a trial: a single one that failed says nothing
MIN_FAILED, MIN_OVERLAPS = 3, 10
MIN_LATENCIES = {50: 40, 95: 200}  # by percentile: a tail of two answers is none
KEPT_LATENCIES = 500  # the newest of each side
SLACK_MS = 5.0  # beyond the bound, so that microseconds are no slowdown


@dataclass
class Side:
    """The answers of one bundle since the trial began."""

    num_good: int = 0
    num_failed: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))

    def add(self, is_good: bool, latency_ms: float) -> None:
        """Counts an answer; one that failed has no latency to compare."""
        self.num_good += is_good
        self.num_failed += not is_good
        if is_good:
            self.latencies_ms.append(latency_ms)

    def failed_share(self, more: int = 0) -> float:
        """The share that failed; `more`: failures that never became an answer."""
        failed = self.num_failed + more
        return failed / max(1, failed + self.num_good)


@dataclass
class Evidence:
    """All that this process has seen of one trial."""

    bundle: str  # the canary's
    canary: Side = field(default_factory=Side)
    in_force: Side = field(default_factory=Side)
    num_raised: int = 0  # requests that the canary ended by an exception
    num_overlaps: int = 0
    sum_overlaps: float = 0.0

    @property
    def overlap(self) -> float:
        """The mean share of items that the lists of both have in common."""
        return self.sum_overlaps / max(1, self.num_overlaps)

    def add_overlap(self, share: float) -> None:
        self.num_overlaps += 1
        self.sum_overlaps += share

    def take_raised(self, total: int) -> None:
        """Takes the number of requests that the canary ended by an exception since the trial began."""
        self.num_raised = total

    def verdict(self, terms: CanaryTerms) -> str | None:
        """The reason why the trial has to end, in a sentence; None while the canary is within its bounds."""
        return self._errors(terms) or self._slowdown(terms) or self._strangeness(terms)

    def _errors(self, terms: CanaryTerms) -> str | None:
        failed = self.canary.num_failed + self.num_raised
        share, usual = self.canary.failed_share(self.num_raised), self.in_force.failed_share()
        # against the share in force, not against 0: a store that is away fails the requests of both
        if failed < MIN_FAILED or share <= usual + terms.max_errors:
            return None
        return f"{failed} of its {failed + self.canary.num_good} answers failed, {usual:.1%} of those in force"

    def _slowdown(self, terms: CanaryTerms) -> str | None:
        sides = (self.canary.latencies_ms, self.in_force.latencies_ms)
        num_seen = min(map(len, sides))
        for percentile in (percentile for percentile, needed in MIN_LATENCIES.items() if num_seen >= needed):
            own, usual = (float(np.percentile(side, percentile)) for side in sides)
            if own > terms.max_slowdown * usual + SLACK_MS:
                return f"its answers take {own:.0f} ms (p{percentile}), those in force {usual:.0f} ms"
        return None

    def _strangeness(self, terms: CanaryTerms) -> str | None:
        if self.num_overlaps < MIN_OVERLAPS or self.overlap >= terms.min_overlap:
            return None
        return (
            f"its lists have {self.overlap:.1%} of their items in common with those in force, over {self.num_overlaps}"
        )
