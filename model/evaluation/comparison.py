"""Two systems on the same users: the difference of their recall with its chance, and what each finds alone.

Users are drawn again, in pairs: the bootstrap is SciPy's (extra `analysis`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.evaluation.metrics import Relevance

RESAMPLES = 9_999
RESAMPLES_AT_ONCE = 100  # so many copies of all users are held at a time


@dataclass(frozen=True)
class Comparison:
    """Recall of ours against theirs, at one length of the lists."""

    ours: float
    theirs: float
    standard_error: float  # of the difference, over users
    p_value: float  # of no difference, two-sided; never below 1 / (resamples + 1)
    exclusive: float  # share of our hits that their lists do not hold
    overlap: float  # share of the items of our lists that theirs hold too

    @property
    def gain(self) -> float:
        """The difference as a share of theirs."""
        return (self.ours - self.theirs) / self.theirs if self.theirs else 0.0


@dataclass(frozen=True)
class ListPair:
    """Lists of two systems for the same users, from one training seed of each."""

    ours: NDArray[np.int64]  # (U, K) item rows, 0 = empty place
    theirs: NDArray[np.int64]  # (U, K)


def compare(
    pairs: Sequence[ListPair], targets: Sequence[NDArray[np.int32]], seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """Compares systems trained with one seed or several; a user's recall is the mean over the seeds.

    targets: item rows of each user. Raises ValueError where there is no pair or no user.
    """
    if not pairs or not len(targets):
        raise ValueError("a comparison needs at least one pair of systems and one user")
    relevant = [(Relevance.of(pair.ours, targets), Relevance.of(pair.theirs, targets)) for pair in pairs]
    ours, theirs = (
        np.mean([both[side].hits.sum(1) / both[side].num_targets for both in relevant], 0) for side in (0, 1)
    )
    error, p_value = _bootstrap(ours - theirs, seed, resamples)
    shared = [_held(pair.ours, pair.theirs) for pair in pairs]
    hits = sum(int(first.hits.sum()) for first, _ in relevant)
    alone = sum(int((first.hits & ~held).sum()) for (first, _), held in zip(relevant, shared, strict=True))
    places = sum(int((pair.ours > 0).sum()) for pair in pairs)
    # lists without hits, or without items, have nothing that is theirs alone or shared: 0, not a division by it
    return Comparison(
        ours=float(ours.mean()),
        theirs=float(theirs.mean()),
        standard_error=error,
        p_value=p_value,
        exclusive=alone / max(hits, 1),
        overlap=sum(int(held.sum()) for held in shared) / max(places, 1),
    )


def _held(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(U, K) true where an item of ours stands anywhere in their list."""
    held = np.stack([np.isin(own, other) for own, other in zip(ours, theirs, strict=True)])
    return held & (ours > 0)


def _bootstrap(difference: NDArray[np.float64], seed: int, resamples: int) -> tuple[float, float]:
    """The standard error of the mean of (U,) differences, and the chance of a mean this far from 0."""
    # equal for all users: every resample would be the same
    if not np.ptp(difference):
        return 0.0, 1.0 if not difference[0] else 1 / (resamples + 1)
    try:
        from scipy import stats  # noqa: PLC0415  (extra `analysis`; SciPy is not typed)
    except ImportError as error:
        raise ValueError("a comparison needs SciPy: pip install 'recgpt-recall[analysis]'") from error
    drawn = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        batch=RESAMPLES_AT_ONCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    means = drawn.bootstrap_distribution
    # both sides count a mean of 0, and one more is added, so that a chance is never 0
    fewer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return float(drawn.standard_error), min(1.0, 2 * (fewer + 1) / (resamples + 1))
