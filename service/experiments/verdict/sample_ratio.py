"""Sample ratio mismatch: the users of each variation against the planned shares. While it is red nothing else counts.

Chi square for one planned look; for looks at any time a Dirichlet e-process (Lindon, Malek 2022): the likelihood of the
counts under shares drawn around the planned ones, over that under the planned ones. By Ville's inequality it exceeds
1/p with probability p at most, over all looks together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from service.errors import BadStatistics
from service.experiments.verdict.distributions import Number, chi_square_tail, log_beta

YELLOW, RED = 0.01, 0.001
PRIOR_USERS = 1_000.0  # how firmly the drawn shares lie around the planned ones
WEIGHT_TOLERANCE = 1e-6


class RatioState(StrEnum):
    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """The state, and both p values; `p` is the one that set it."""

    state: RatioState
    p: float
    p_chi_square: float
    p_sequential: float
    users: dict[str, int]
    expected: dict[str, float]


def judge_ratio(users: Mapping[str, int], weights: Mapping[str, float], final: bool) -> SampleRatio:
    """Final: one planned look. Raises BadStatistics for counts and weights that do not fit."""
    check_counts(users, weights)
    total, names = sum(users.values()), list(weights)
    counts, shares = np.array([float(users[name]) for name in names]), np.array([weights[name] for name in names])
    chi_square, sequential = float(chi_square_p(counts, shares)), float(sequential_p(counts, shares))
    p = chi_square if final else sequential
    return SampleRatio(
        state=RatioState.RED if p < RED else RatioState.YELLOW if p < YELLOW else RatioState.GREEN,
        p=p,
        p_chi_square=chi_square,
        p_sequential=sequential,
        users={name: int(users[name]) for name in names},
        expected={name: total * weights[name] for name in names},
    )


def check_counts(users: Mapping[str, int], weights: Mapping[str, float]) -> None:
    if len(weights) < 2:
        raise BadStatistics("an experiment needs two variations at least")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights.values()):
        raise BadStatistics("weights must be positive numbers")
    if abs(sum(weights.values()) - 1) > WEIGHT_TOLERANCE:
        raise BadStatistics(f"weights sum to {sum(weights.values()):g}, not to 1")
    if set(users) != set(weights):
        raise BadStatistics(f"users are of {', '.join(sorted(users))}, weights of {', '.join(sorted(weights))}")
    if any(count < 0 for count in users.values()) or not sum(users.values()):
        raise BadStatistics("counts of users must not be negative, nor all 0")


def chi_square_p(counts: NDArray[np.float64], shares: NDArray[np.float64]) -> Number:  # (.., V), (V,)
    expected = counts.sum(-1, keepdims=True) * shares
    return chi_square_tail(((counts - expected) ** 2 / expected).sum(-1), shares.size - 1)


def sequential_p(counts: NDArray[np.float64], shares: NDArray[np.float64]) -> Number:  # (.., V), (V,)
    """One over the e-value of the counts so far."""
    prior = PRIOR_USERS * shares
    log_e = log_beta(prior + counts) - log_beta(prior) - (counts * np.log(shares)).sum(-1)
    p: Number = np.exp(np.minimum(0.0, -log_e))
    return p
