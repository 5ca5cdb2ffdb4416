"""Differences of two variations from their sums: absolute and relative, with fixed and always-valid intervals.

One path for all kinds. With R = sum_y / sum_d, a user's share in the error of R is z = (y - R d) / mean(d) (delta
method; a mean has d = 1). CUPED takes off theta (x - mean x), theta from both variations. Numbers or arrays alike.
Sources: Welch 1947; Deng, Knoblich, Lu 2018 (ratio); Deng, Xu, Kohavi, Walker 2013 (CUPED); Waudby-Smith, Arbour,
Sinha, Kennedy, Ramdas 2021 (asymptotic confidence sequences).
"""

from dataclasses import dataclass

import numpy as np

from service.experiments.verdict.distributions import Number, student_quantile, student_tails
from service.experiments.verdict.statistics import Kind, MetricStatistics, Moments

TUNED_USERS = 5_000  # N*: the always-valid interval is narrowest, relative to the fixed one, near this many users


@dataclass(frozen=True, slots=True)
class ArmEstimate:
    """The metric and the mean covariate of one variation, with the variances of both estimates."""

    n: Number
    value: Number
    covariate: Number
    var_value: Number
    var_covariate: Number
    covariance: Number

    def variance_of(self, value: Number, covariate: Number) -> Number:
        """The variance of the two with these weights, at least 0: rounding takes a perfect covariate below it."""
        variance = value**2 * self.var_value + 2 * value * covariate * self.covariance
        return np.maximum(0.0, variance + covariate**2 * self.var_covariate)

    def adjusted_variance(self, theta: Number) -> Number:
        """The variance of value - theta covariate."""
        return self.variance_of(1.0, -theta)


@dataclass(frozen=True, slots=True)
class Effect:
    """An estimated difference, its standard error, Welch's degrees of freedom, the users of both variations."""

    estimate: Number
    error: Number
    degrees: Number
    users: Number

    def interval(self, alpha: float) -> tuple[Number, Number]:
        """Holds at one look that was planned."""
        return self._around(student_quantile(1 - alpha / 2, self.degrees) * self.error)

    def p_value(self) -> Number:
        return student_tails(self.estimate / self.error, self.degrees)

    def always_valid(self, alpha: float, tuned_users: int = TUNED_USERS) -> tuple[Number, Number]:
        """Holds at all looks together."""
        return self._around(always_valid_width(self.users, alpha, tuned_users) * self.error)

    def always_valid_p(self, alpha: float, tuned_users: int = TUNED_USERS) -> Number:
        """Below alpha exactly where the always-valid interval of alpha excludes 0."""
        spread = self.users * mixing_variance(alpha, tuned_users)
        evidence = (self.estimate / self.error) ** 2 * spread / (2 * (spread + 1))
        p: Number = np.minimum(1.0, np.sqrt(spread + 1) * np.exp(-evidence))
        return p

    def _around(self, width: Number) -> tuple[Number, Number]:
        return self.estimate - width, self.estimate + width


def mixing_variance(alpha: float, tuned_users: int) -> float:
    """rho squared."""
    return float((-2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)) / tuned_users)


def always_valid_width(users: Number, alpha: float, tuned_users: int = TUNED_USERS) -> Number:
    """Half the interval's width in standard errors; a fixed interval has 1.96 at alpha .05."""
    spread = users * mixing_variance(alpha, tuned_users)
    width: Number = np.sqrt(2 * (spread + 1) / spread * np.log(np.sqrt(spread + 1) / alpha))
    return width


def estimate_arm(m: Moments, kind: Kind) -> ArmEstimate:
    value, covariate = np.divide(m.sum_y, m.sum_d), np.divide(m.sum_x, m.n)
    # a proportion's variance is p (1 - p); with a covariate every sum is a sample's
    divisor = (m.n if kind is Kind.PROPORTION and not m.has_covariate else m.n - 1) * m.n
    scale = m.n / m.sum_d
    return ArmEstimate(
        n=m.n,
        value=value,
        covariate=covariate,
        var_value=_positive(m.sum_yy - 2 * value * m.sum_yd + value**2 * m.sum_dd) * scale**2 / divisor,
        var_covariate=_positive(m.sum_xx - m.sum_x * covariate) / divisor,
        covariance=(m.sum_yx - value * m.sum_dx) * scale / divisor,
    )


def _positive(squares: Number) -> Number:
    return np.maximum(squares, 0.0)  # rounding may leave -1e-12 where all users are alike


def cuped_coefficient(control: Moments, treatment: Moments, kind: Kind) -> Number:
    """Theta; 0 where there is no covariate, or one that does not vary."""
    pooled = estimate_arm(control + treatment, kind)
    varies = np.asarray(pooled.var_covariate) > 0
    return np.where(varies, pooled.covariance / np.where(varies, pooled.var_covariate, 1.0), 0.0)


def compare(control: Moments, treatment: Moments, kind: Kind) -> tuple[Effect, Effect]:
    """Absolute and relative difference, treatment against control; relative to the control's unadjusted value."""
    theta = cuped_coefficient(control, treatment, kind) if control.has_covariate or treatment.has_covariate else 0.0
    c, t = estimate_arm(control, kind), estimate_arm(treatment, kind)
    var_c, var_t = c.adjusted_variance(theta), t.adjusted_variance(theta)
    error, users = np.sqrt(var_c + var_t), c.n + t.n
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing varies, or the control's value is 0
        degrees = (var_c + var_t) ** 2 / (var_c**2 / (c.n - 1) + var_t**2 / (t.n - 1))
        difference = t.value - c.value - theta * (t.covariate - c.covariate)
        absolute = Effect(difference, error, degrees, users)
        # the derivatives by t.value, t.covariate, c.value, c.covariate times c.value: 1, -theta, slope, theta
        slope = -(t.value - theta * t.covariate + theta * c.covariate) / c.value
        var_c = c.variance_of(slope, theta)
        relative = Effect(difference / c.value, np.sqrt(var_c + var_t) / np.abs(c.value), degrees, users)
    return absolute, relative


def variance_reduction(control: MetricStatistics, treatment: MetricStatistics) -> float:
    """The share of the absolute difference's variance that the covariate takes off."""
    theta = cuped_coefficient(control.moments, treatment.moments, control.kind)
    arms = [estimate_arm(row.moments, row.kind) for row in (control, treatment)]
    plain = sum(float(arm.var_value) for arm in arms)
    return 1 - sum(float(arm.adjusted_variance(theta)) for arm in arms) / plain if plain else 0.0
