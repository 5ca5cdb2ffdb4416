"""The interleaved run: everybody is shown lists mixed out of both arms', and the event log says whom users prefer.

Draws of some hundred of its users are held against the twins: has their preference the sign of the true lift? A split
needs thousands of users for what an interleaving should see in hundreds; this is where that is put to the test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recall.replay.lifts import ALPHA, TwinLift
from recall.replay.salts import CONTROL, KEY, experiment_of
from service.consumer.credits import BETWEEN, read_credits
from service.consumer.users import read_experiment
from service.experiments.verdict.distributions import signed_rank_p
from service.experiments.verdict.preference import LOGS, judged_by, signed_ranks

USERS = 500  # of a draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One metric: the preference of everybody, and how often that of a draw has the sign of the twins' lift."""

    metric: str
    lift: float  # of the twins, a fraction of the control's mean
    prefer_control: int  # users of the whole run
    prefer_treatment: int
    draws: int
    agrees: float  # share of the draws
    clear: float  # the same with a signed rank test below ALPHA
    clear_and_wrong: float


def interleaving_of(salt: str, control: str, treatment: str) -> dict[str, Any]:
    """The experiments' file: every user gets one list out of both arms'."""
    split = experiment_of(salt, control, treatment)
    [rule] = split["features"]["recall_arm"]["rules"]
    mixed = {name: value for name, value in rule.items() if name != "weights"} | {"kind": "interleaving"}
    return {"features": {"recall_arm": {"defaultValue": control, "rules": [mixed]}}}


def read_preferences(folder: Path) -> pl.DataFrame:
    """One row a user of the event log: METRIC:VARIATION for both variations."""
    return read_credits(read_experiment(folder, KEY)).users_until()


def agreement(credits: pl.DataFrame, lift: TwinLift, treatment: str, draws: int, seed: int) -> Agreement | None:
    """None for a metric that the log has no credits of, or of which the twins have no lift at all."""
    if f"{lift.metric}{BETWEEN}{CONTROL}" not in credits.columns or not lift.lift:
        return None
    pairs = {
        name: (credits[f"{name}{BETWEEN}{CONTROL}"].to_numpy(), credits[f"{name}{BETWEEN}{treatment}"].to_numpy())
        for name in (lift.metric, LOGS.get(lift.metric))
        if name and f"{name}{BETWEEN}{treatment}" in credits.columns
    }
    control, own = judged_by(pairs, lift.metric)
    differences = own - control  # (U,)
    rng = np.random.default_rng([seed, 5])
    counts = np.zeros(3)  # draws that agree; of these and of the others, those that are clear
    for _ in range(draws):
        # anew from all, with replacement: draws of half of the same users would hardly differ
        drawn = rng.choice(differences, USERS)
        agrees = bool(signed_ranks(drawn).sum() * lift.lift > 0)
        is_clear = bool(drawn.any()) and signed_rank_p(drawn) < ALPHA
        counts += agrees, agrees and is_clear, is_clear and not agrees
    agrees_share, clear, wrong = (counts / draws).tolist()
    return Agreement(
        metric=lift.metric,
        lift=lift.lift,
        prefer_control=int((differences < 0).sum()),
        prefer_treatment=int((differences > 0).sum()),
        draws=draws,
        agrees=agrees_share,
        clear=clear,
        clear_and_wrong=wrong,
    )


def agreements(
    credits: pl.DataFrame, lifts: Sequence[TwinLift], treatment: str, draws: int, seed: int
) -> list[Agreement]:
    """Lists the agreement of every metric that the log has, in the order of the lifts."""
    rows = [agreement(credits, lift, treatment, draws, seed) for lift in lifts]
    return [row for row in rows if row is not None]
