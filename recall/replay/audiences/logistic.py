"""Logistic regression by Newton's method: some thousand rows, a handful of features, a small ridge."""

from dataclasses import dataclass

import numpy as np

from recall.replay.audiences.audience import Numbers

STEPS, RIDGE = 30, 1.0  # the ridge is in rows of evidence, against features that hardly vary
ENOUGH = 1e-9  # the largest change of a weight at which it stops


def logit(rates: Numbers) -> Numbers:
    values: Numbers = np.log(rates) - np.log1p(-rates)
    return values


@dataclass(frozen=True, slots=True)
class Logistic:
    """Chances from features; the first weight is the intercept."""

    weights: Numbers  # (F + 1,)

    def chances(self, features: Numbers) -> Numbers:
        """(R,) of features (R, F)."""
        values: Numbers = 1 / (1 + np.exp(-(self.weights[0] + features @ self.weights[1:])))
        return values


def fit(features: Numbers, happened: Numbers) -> Logistic:
    """The most likely weights for rows (R, F) and 0 or 1 in each; the intercept bears no ridge."""
    # the intercept is the first column, as in `Logistic.weights`
    rows = np.column_stack([np.ones(len(features)), features])
    ridge = RIDGE * np.diag([0.0, *[1.0] * features.shape[1]])
    weights = np.zeros(rows.shape[1])
    rate = happened.mean()
    # from the mean rate on: a rare event's first step from 0 would go far beyond
    weights[0] = np.log(rate / (1 - rate))
    for _ in range(STEPS):
        chances = 1 / (1 + np.exp(-(rows @ weights)))
        slope = rows.T @ (happened - chances) - ridge @ weights
        step = np.linalg.solve((rows * (chances * (1 - chances))[:, None]).T @ rows + ridge, slope)
        weights += step
        if np.abs(step).max() < ENOUGH:
            break
    return Logistic(weights)


def calibration(chances: Numbers, happened: Numbers, parts: int = 5) -> list[tuple[float, float]]:
    """(modelled, observed) rate in each part of the rows, from the least likely to the most."""
    order = np.argsort(chances, kind="stable")
    return [(float(chances[part].mean()), float(happened[part].mean())) for part in np.array_split(order, parts)]
