"""The few distribution functions of the verdict, from SciPy (extra `analysis`); all take arrays."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import ConfigurationError

try:
    from scipy import special
except ImportError as error:
    raise ConfigurationError("judging experiments needs SciPy: pip install 'recgpt-recall[analysis]'") from error

Number: TypeAlias = float | NDArray[np.float64]


def normal_quantile(probability: Number) -> Number:
    return special.ndtri(probability)  # type: ignore[no-any-return]  # SciPy is not typed


def student_quantile(probability: Number, degrees: Number) -> Number:
    return special.stdtrit(degrees, probability)  # type: ignore[no-any-return]


def student_tails(statistic: Number, degrees: Number) -> Number:
    """Both tails beyond +-statistic."""
    return 2 * special.stdtr(degrees, -np.abs(statistic))  # type: ignore[no-any-return]


def chi_square_tail(statistic: Number, degrees: int) -> Number:
    return special.chdtrc(degrees, statistic)  # type: ignore[no-any-return]


def log_beta(counts: NDArray[np.float64]) -> Number:
    """Logarithm of the multivariate beta function over the last axis."""
    return special.gammaln(counts).sum(-1) - special.gammaln(counts.sum(-1))  # type: ignore[no-any-return]


def sign_test_p(first: int, second: int) -> float:
    """Two-sided and exact: the chance that fair coins fall apart at least as far."""
    from scipy import stats  # noqa: PLC0415  (half a second, which only an interleaving needs)

    return float(stats.binomtest(first, first + second).pvalue)


def ranks_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for the smallest; equal values share the mean of their ranks."""
    from scipy import stats  # noqa: PLC0415

    return stats.rankdata(values)  # type: ignore[no-any-return]


def signed_rank_p(differences: NDArray[np.float64]) -> float:
    """Two-sided, by the normal approximation; differences of 0 are left out."""
    from scipy import stats  # noqa: PLC0415

    return float(stats.wilcoxon(differences[differences != 0], method="approx").pvalue)
