"""The A/B test under other salts: the assigner divides the twins anew, and the intervals meet the truth.

Nothing is asked of a service: a user's sums with either arm are known from the twins, so another salt only chooses
which of the two is seen. Two populations: the same users divided again, and as many drawn anew from them with
replacement, which is what a verdict's interval is made for. Over the same users the twins' mean difference is no longer
random, so that intervals are wider than they need be, by the spread of the users' own differences (Neyman 1923).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recall.replay.audiences.audience import Ids, Numbers
from service.experiments.assignment import Assigner
from service.experiments.verdict.estimates import Effect, compare
from service.experiments.verdict.statistics import Kind, Moments

CONTROL = "control"
KEY = "replay"
ALPHA = 0.05
LOOKS = 40
SALTS_AT_ONCE = 20  # weights of so many lie in memory


def experiment_of(salt: str, control: str, treatment: str) -> dict[str, Any]:
    """The experiments' file: half of the users with either arm, divided by this salt."""
    rule = {
        "key": KEY,
        "phase": "0",
        "hashAttribute": "user_id",
        "hashVersion": 2,
        "seed": salt,
        "coverage": 1,
        "variations": [control, treatment],
        "weights": [0.5, 0.5],
        "meta": [{"key": CONTROL}, {"key": treatment}],
    }
    return {"features": {"recall_arm": {"defaultValue": control, "rules": [rule]}}}


def treated(salt: str, units: Sequence[str]) -> NDArray[np.bool_]:
    """(U,) true for the units that the assigner gives the treatment."""
    assigner = Assigner.from_features(experiment_of(salt, "a", "b"), ("a", "b"))
    return np.array([assigner.assign(unit).arm == "b" for unit in units])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """One metric of every twin: with the control, with the treatment, and its covariate."""

    control: Numbers  # (U,)
    treatment: Numbers  # (U,)
    covariate: Numbers | None = None  # (U,)

    @property
    def truth(self) -> float:
        return float(self.treatment.sum() / self.control.sum() - 1)


@dataclass(slots=True)
class Tally:
    """Counts of what the intervals of one metric did under the salts so far."""

    salts: int = 0
    covered_anew: int = 0  # users drawn anew: the interval holds the truth
    covered_same: int = 0  # the same users
    false_alarms: int = 0  # A/A: the fixed interval excludes no difference, at the planned end
    ever_alarms: int = 0  # A/A: any of 40 looks by the always-valid interval does

    def add(self, other: "Tally") -> "Tally":
        sums = {name: getattr(self, name) + getattr(other, name) for name in Tally.__slots__}
        return Tally(**sums)

    def rates(self) -> dict[str, float]:
        counts = {name: getattr(self, name) / self.salts for name in Tally.__slots__ if name != "salts"}
        return {"salts": self.salts, **{name: round(rate, 4) for name, rate in counts.items()}}


@dataclass(frozen=True, slots=True)
class Division:
    """The weights of users in either arm under S salts: how often each counts there."""

    control: Numbers  # (S, U)
    treatment: Numbers  # (S, U)

    def moments(self, control: Numbers, treatment: Numbers, covariate: Numbers | None) -> tuple[Moments, Moments]:
        """The sums of both arms under each salt, (S,)."""
        return weighted(self.control, control, covariate), weighted(self.treatment, treatment, covariate)

    def first(self, share: float) -> "Division":
        """The users who have arrived when this share of them has."""
        until = round(share * self.control.shape[1])
        return Division(self.control[:, :until], self.treatment[:, :until])


def weighted(weights: Numbers, y: Numbers, x: Numbers | None) -> Moments:
    n, y = weights.sum(1), y[: weights.shape[1]]
    # a product of weights and sums gives all salts at once
    sum_y = weights @ y
    more = {}
    if x is not None:
        x = x[: weights.shape[1]]
        more = {"sum_x": weights @ x, "sum_xx": weights @ (x * x), "sum_yx": weights @ (y * x)}
        more["sum_dx"] = more["sum_x"]
    return Moments(n=n, sum_y=sum_y, sum_yy=weights @ (y * y), sum_d=n, sum_dd=n, sum_yd=sum_y, **more)


def divisions(users: Ids, salts: int, seed: int) -> Iterator[tuple[Division, Division]]:
    """The same users, and as many drawn anew, under some salts at a time."""
    known, strangers = [str(user) for user in users.tolist()], [f"visitor-{n}" for n in range(len(users))]
    for start in range(0, salts, SALTS_AT_ONCE):
        names = [f"replay-{seed}-{n}" for n in range(start, min(start + SALTS_AT_ONCE, salts))]
        same = np.array([treated(name, known) for name in names], dtype=np.float64)
        yield Division(1 - same, same), _drawn_anew(names, strangers, seed, start)


def _drawn_anew(names: Sequence[str], units: Sequence[str], seed: int, start: int) -> Division:
    """Each unit is a visitor who is like a random twin."""
    rng, size = np.random.default_rng([seed, 3, start]), len(units)
    # weights: how often a twin was drawn into either arm, so that no row has to be copied
    arms = np.zeros((2, len(names), size))
    for row, name in enumerate(names):
        likeness, is_treated = rng.integers(0, size, size), treated(name, units)
        arms[0, row] = np.bincount(likeness[~is_treated], minlength=size)
        arms[1, row] = np.bincount(likeness[is_treated], minlength=size)
    return Division(arms[0], arms[1])


def try_salts(outcomes: Mapping[str, Outcomes], users: Ids, salts: int, seed: int) -> dict[str, Tally]:
    """Metric -> what its intervals did under that many salts."""
    tallies = {name: Tally() for name in outcomes}
    for same, anew in divisions(users, salts, seed):
        for name, metric in outcomes.items():
            tallies[name] = tallies[name].add(tally(metric, same, anew))
    return tallies


def tally(metric: Outcomes, same: Division, anew: Division) -> Tally:
    with_effect = (metric.control, metric.treatment, metric.covariate)
    without_effect = (metric.control, metric.control, metric.covariate)
    return Tally(
        salts=len(same.control),
        covered_anew=covered(compare(*anew.moments(*with_effect), Kind.MEAN)[1], metric.truth),
        covered_same=covered(compare(*same.moments(*with_effect), Kind.MEAN)[1], metric.truth),
        false_alarms=int(np.sum(compare(*same.moments(*without_effect), Kind.MEAN)[0].p_value() < ALPHA)),
        ever_alarms=int(ever_alarmed(same, without_effect).sum()),
    )


def covered(effect: Effect, truth: float) -> int:
    low, high = effect.interval(ALPHA)
    return int(np.sum((low <= truth) & (truth <= high)))


def ever_alarmed(division: Division, without_effect: tuple[Numbers, Numbers, Numbers | None]) -> NDArray[np.bool_]:
    """(S,) true where any of the looks at the users arrived so far excludes no difference."""
    ever = np.zeros(len(division.control), dtype=np.bool_)
    for look in range(1, LOOKS + 1):
        absolute, _ = compare(*division.first(look / LOOKS).moments(*without_effect), Kind.MEAN)
        # of the first users nobody may have done anything yet: no spread, no verdict
        with np.errstate(invalid="ignore", divide="ignore"):
            ever |= np.asarray(absolute.always_valid_p(ALPHA) < ALPHA) & (np.asarray(absolute.error) > 0)
    return ever
