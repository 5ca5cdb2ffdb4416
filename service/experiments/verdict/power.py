"""Planning: users an arm for a lift, the lift that given users can show, days. Two-sided, two arms of one size."""

import math
from dataclasses import dataclass

import numpy as np

from service.errors import BadStatistics
from service.experiments.verdict.distributions import normal_quantile
from service.experiments.verdict.estimates import TUNED_USERS, always_valid_width


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A metric's mean and deviation over users before the test; `correlation` with the same users' pre-period."""

    name: str
    mean: float
    deviation: float
    correlation: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (self.mean, self.deviation, self.correlation)):
            raise BadStatistics(f"{self.name}: mean, deviation and correlation must be finite numbers")
        if self.mean <= 0 or self.deviation <= 0 or abs(self.correlation) >= 1:
            raise BadStatistics(f"{self.name}: mean and deviation must be positive, the correlation inside -1 and 1")

    @classmethod
    def of_rate(cls, name: str, rate: float, correlation: float = 0.0) -> "Baseline":
        """Users with the action, as a share of all."""
        if not 0 < rate < 1:
            raise BadStatistics(f"{name}: a rate lies between 0 and 1, not at {rate:g}; a mean needs its deviation")
        return cls(name=name, mean=rate, deviation=math.sqrt(rate * (1 - rate)), correlation=correlation)

    @property
    def relative_variance(self) -> float:
        """The variance of one user, relative to the squared mean, after CUPED."""
        return (self.deviation / self.mean) ** 2 * (1 - self.correlation**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRates:
    """The error rates a test is planned for."""

    alpha: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or not self.alpha < self.power < 1:
            raise BadStatistics("alpha lies between 0 and 1, power between alpha and 1")

    @property
    def fixed_errors(self) -> float:
        """The distance of a lift from 0, in standard errors, that one planned look needs."""
        return float(normal_quantile(1 - self.alpha / 2) + normal_quantile(self.power))

    def any_time_errors(self, users: int) -> float:
        """The same for a look at this many users in both arms by the always-valid interval."""
        return float(always_valid_width(users, self.alpha, TUNED_USERS) + normal_quantile(self.power))


def users_per_arm(baseline: Baseline, lift: float, design: ErrorRates) -> int:
    """Users for one planned look."""
    return _users(baseline, lift, design.fixed_errors)


def users_per_arm_any_time(baseline: Baseline, lift: float, design: ErrorRates) -> int:
    """Users for looks at any time: by this many the power is reached."""
    users = _users(baseline, lift, design.fixed_errors)
    for _ in range(100):  # the width grows as the logarithm of users: it settles in a few rounds
        needed = _users(baseline, lift, design.any_time_errors(2 * users))
        if needed <= users:
            break
        users = needed
    return users


def _users(baseline: Baseline, lift: float, errors: float) -> int:
    if not math.isfinite(lift) or lift == 0:
        raise BadStatistics("the lift to find must not be 0")
    return max(2, math.ceil(2 * baseline.relative_variance * (errors / lift) ** 2))


def detectable_lift(baseline: Baseline, users: int, design: ErrorRates) -> float:
    """The smallest relative lift that so many users an arm find at the planned power."""
    if users < 2:
        raise BadStatistics("at least 2 users an arm are needed")
    return design.fixed_errors * float(np.sqrt(2 * baseline.relative_variance / users))


def days(users: int, users_per_day: float) -> int:
    """Days until both arms have their users, when so many new users arrive a day in both together."""
    if not users_per_day > 0:
        raise BadStatistics("users a day must be positive")
    return math.ceil(2 * users / users_per_day)
