"""Credits of an interleaved list, and the lifts that 500 users can show: `python -m benchmarks.interleaving_credit`.

Three parts, on the users of the replay with KuaiRand (docs/online-ab.md). `bound`: twins, each user's sums in two whole
worlds; a list that is mixed out of both arms' shows less of a user. So the share of draws of 500 twins whose difference
has the sign of the lift is about what an interleaving can reach, and so are the users that 95 % need. `credit`: the
lists of both arms (benchmarks/interleaved_lists.py), drafted as the service does, and ways to credit what users do with
them: of each, how often 500 users have the sign of the twins' lift. `service`: the credit of today in lists that a
service has interleaved, for a part of the users; the twins are those of the whole replay in the work folder.

    python -m benchmarks.interleaving_credit bound --worlds CONTROL.parquet TREATMENT.parquet
    python -m benchmarks.interleaving_credit credit --lists runs/lists [--skip 5376]
    python -m benchmarks.interleaving_credit service --work runs/replay/kuairand --skip 5376 --users 3072
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import norm

from benchmarks.interleaving_study import RESULTS
from benchmarks.steady import add_row, where_and_when
from recall.replay.arms import Workshop
from recall.replay.audiences.audience import EXPECTED, PLAYS, WATCHED
from recall.replay.audiences.kuairand import LogAudience
from recall.replay.command import AUDIENCES
from recall.replay.preferences import USERS
from recall.replay.study import Study
from recall.replay.world import Script
from service.experiments.team_draft import draft, seed_of
from service.experiments.verdict.preference import signed_ranks

METRICS = (PLAYS, WATCHED, "likes", "comments", "follows", "shares")
LIFTS = {PLAYS: -1, WATCHED: -1, "likes": 1, "comments": -1, "follows": 1, "shares": -1}  # signs of the twins' lifts
DRAFTS = 16  # of an item's chance to be shown, and of the mean over drafts
CAP_S, AGREEING = 60.0, 0.95
PRIOR_SHOWS = 10.0  # lists in which an item's mean of other users counts as the mean of all
Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers, Numbers], Numbers]  # differences and sums of users (U,) -> what is added up

STATISTICS: Mapping[str, Statistic] = {
    "sign": lambda difference, _: np.sign(difference),
    "sum": lambda difference, _: difference,
    "share": lambda difference, whole: difference / np.where(whole > 0, whole, 1),
    "signed rank": lambda difference, _: signed_ranks(difference),
}


def agreement(values: Numbers, lift: float, draws: int, seed: int) -> float:
    """The share of draws of USERS, with replacement, whose sum has the sign of the lift."""
    rng = np.random.default_rng([seed, 5])
    sums = np.array([rng.choice(values, USERS).sum() for _ in range(draws)])
    return float((sums * lift > 0).mean())


def distance_of(values: Numbers) -> float:
    """The mean of USERS users in its standard errors: at 1.64 and beyond 95 % of the draws have its sign."""
    return float(values.mean() / values.std() * np.sqrt(USERS))


def bound(worlds: Sequence[Path], draws: int, seed: int) -> Iterator[dict[str, Any]]:
    """One row a metric, drawn, and expected by the model: then chance is in the choice of users alone."""
    control, treatment = map(pl.read_parquet, worlds)
    if control["user"].to_list() != treatment["user"].to_list():
        raise ValueError("twins are the same users, in the same order")
    for name in [*METRICS, *(f"{metric}{EXPECTED}" for metric in METRICS)]:
        if name not in control.columns:
            continue
        sums = control[name].to_numpy(), treatment[name].to_numpy()
        difference = sums[1] - sums[0]
        lift = float(sums[1].sum() / sums[0].sum() - 1)
        distance = abs(distance_of(difference))
        yield {
            "what": "bound",
            "metric": name,
            "lift": round(lift, 4),
            "of_500_users": round(float(sums[0].mean()) * USERS, 1),
            "agrees": agreement(difference, lift, draws, seed),
            "users_for_95_percent": int(np.ceil(USERS * (norm.ppf(AGREEING) / distance) ** 2)),
        }


@dataclass(frozen=True)
class Material:
    """The lists of both arms of U users in S sessions, L items each, and what every user would do with every item."""

    users: NDArray[np.int64]  # (U,)
    items: NDArray[np.int64]  # (U, S, 2, L)
    values: Mapping[str, Numbers]  # (U, S, 2, L) of metrics, and other measures of the time watched

    @classmethod
    def read(cls, folder: Path, audience: LogAudience, skip: int, sessions: int) -> "Material":
        """The users of the parts from number `skip` on, in the audience's order."""
        parts = [path for path in sorted(folder.glob("*.parquet")) if int(path.stem) >= skip]
        rows = pl.concat([pl.read_parquet(path) for path in parts]).filter(pl.col("session") < sessions)
        users = rows["user"].unique(maintain_order=True).to_numpy()
        order = rows.sort(pl.col("user").replace_strict(users, np.arange(len(users))), "session")
        lists = [np.array(order[arm].to_list(), dtype=np.int64) for arm in ("control", "treatment")]
        items = np.stack(lists, 1).reshape(len(users), sessions, 2, -1)
        owners = np.broadcast_to(users[:, None, None, None], items.shape)
        reactions = audience.react(owners.ravel(), items.ravel())
        values = {name: column.reshape(items.shape) for name, column in reactions.sums().items() if name in METRICS}
        watched, lengths = values[WATCHED], (reactions.duration_ms / 1e3).reshape(items.shape)
        values |= {"watch, root": np.sqrt(watched), "watch, log": np.log1p(watched)}
        values |= {"watch, capped": np.minimum(watched, CAP_S), "watch, of length": np.minimum(watched / lengths, 1)}
        return cls(users, items, values)

    @cached_property
    def is_own(self) -> NDArray[np.bool_]:
        """(U, S, 2, L) true for an item that the other arm does not list."""
        first, second = self.items[:, :, 0], self.items[:, :, 1]
        same = first[..., :, None] == second[..., None, :]
        return ~np.stack([same.any(3), same.any(2)], 2)

    def drafted(self, number: int) -> NDArray[np.bool_]:
        """(U, S, 2, L) true where the draft takes the item out of this list."""
        taken = np.zeros(self.items.shape, dtype=np.bool_)
        for row, (user, sessions) in enumerate(zip(self.users.tolist(), self.items.tolist(), strict=True)):
            for session, (first, second) in enumerate(sessions):
                drawn = draft((first, second), len(first), seed_of(str(number), str(user), str(session)))
                taken[row, session, drawn.teams, drawn.places] = True
        return taken

    @cached_property
    def shown(self) -> NDArray[np.bool_]:
        return self.drafted(0)

    @cached_property
    def chances(self) -> Numbers:
        """(U, S, 2, L) of each item to be taken out of this list, over other coins and the one that fell."""
        counts = np.zeros(self.items.shape)
        for number in range(DRAFTS):
            counts += self.drafted(number)
        return counts / DRAFTS

    def expected(self, value: Numbers) -> Numbers:
        """(U, S, 2, L) the item's mean over those to whom it was shown, of the other half of the users."""
        distinct, rows = np.unique(self.items, return_inverse=True)
        rows = rows.reshape(self.items.shape)
        means = np.zeros(self.items.shape)
        for half in (0, 1):
            others = np.arange(len(self.users)) % 2 != half
            seen, at = self.shown[others], rows[others]
            shows = np.bincount(at[seen], minlength=len(distinct))
            sums = np.bincount(at[seen], value[others][seen], len(distinct))
            overall = sums.sum() / shows.sum()
            own = (sums + PRIOR_SHOWS * overall) / (shows + PRIOR_SHOWS)
            means[~others] = own[rows[~others]]
        return means


CREDITS: Mapping[str, Callable[[Material, Numbers], Numbers]] = {
    "team draft": lambda material, value: value * material.shown,
    "both whole lists": lambda _, value: value,
    "items of one arm alone": lambda material, value: value * material.shown * material.is_own,
    "weighed by chance": lambda material, value: (
        value * material.shown * material.is_own / np.maximum(material.chances, 1 / DRAFTS)
    ),
    "weighed from item means": lambda material, value: (
        material.is_own
        * (
            material.expected(value)
            + (value - material.expected(value)) * material.shown / np.maximum(material.chances, 1 / DRAFTS)
        )
    ),
    "mean over drafts": lambda material, value: value * material.chances,
}


def credit(material: Material, draws: int, seed: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row a credit and value, with every statistic."""
    for name in names:
        for measure, value in material.values.items():
            # the roots and the like are tried with the credit of the service
            if name != "team draft" and measure not in (PLAYS, WATCHED, "likes"):
                continue
            by_arm = CREDITS[name](material, value).sum((1, 3))  # (U, 2)
            difference, whole = by_arm[:, 1] - by_arm[:, 0], by_arm.sum(1)
            lift = LIFTS[WATCHED if measure.startswith("watch") else measure]
            added = {statistic: of(difference, whole) for statistic, of in STATISTICS.items()}
            yield {
                "what": "credit",
                "credit": name,
                "value": measure,
                "users": len(material.users),
                "sessions": material.items.shape[1],
                "agrees": {statistic: agreement(values, lift, draws, seed) for statistic, values in added.items()},
                "distance": {statistic: round(distance_of(values) * lift, 2) for statistic, values in added.items()},
            }


class LaterUsers(LogAudience):
    """Some users of the replay: those on whom nothing was chosen."""

    def __init__(self, folder: Path, seed: int, skip: int, num_users: int | None) -> None:
        super().__init__(folder, seed)
        self.users = self.users[skip:][:num_users]


def serve(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a metric: draws of a world of interleaved lists of these users, against the lifts of all twins."""
    folder = options.data / AUDIENCES["kuairand"]
    arms = Workshop(options.work, "kuairand", folder, options.seed).bundles({})
    script = Script(sessions=options.sessions, top_n=10)

    def study(audience: LogAudience) -> Study:
        return Study(audience, arms, script, options.work, options.seed, print)

    whole, some = LogAudience(folder, options.seed), LaterUsers(folder, options.seed, options.skip, options.users)
    lifts = study(whole).lifts(study(whole).twins(0))
    for row in study(some).agreements(0, lifts, options.draws):
        yield {"what": "service", "audience": "kuairand", "users": len(some.users), "dropped": 0} | asdict(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("bound", "credit", "service"))
    parser.add_argument("--worlds", type=Path, nargs=2, metavar=("CONTROL", "TREATMENT"), help="worlds of a replay")
    parser.add_argument("--lists", type=Path, help="folder of benchmarks.interleaved_lists")
    parser.add_argument("--work", type=Path, help="folder of `recall experiment replay kuairand`")
    parser.add_argument("--users", type=int, help="of a service's lists; left out, all from --skip on")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--skip", type=int, default=0, help="users of the audience that are left out")
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--credits", default=",".join(CREDITS), help="names of credits, with commas between them")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON Lines to which rows are added")
    options = parser.parse_args()
    if options.what == "bound":
        if options.worlds is None:
            parser.error("bound needs --worlds")
        rows = bound(options.worlds, options.draws, options.seed)
    elif options.what == "service":
        if options.work is None:
            parser.error("service needs --work")
        rows = serve(options)
    else:
        if options.lists is None:
            parser.error("credit needs --lists")
        audience = LogAudience(options.data / AUDIENCES["kuairand"], options.seed)
        material = Material.read(options.lists, audience, options.skip, options.sessions)
        rows = credit(material, options.draws, options.seed, options.credits.split(","))
    for row in rows:
        add_row(row | {"skip": options.skip} | where_and_when(), options.output)


if __name__ == "__main__":
    main()
