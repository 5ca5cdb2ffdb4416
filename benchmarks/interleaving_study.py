"""Interleaving against the truth, on users whose every preference is known: `python -m benchmarks.interleaving_study`.

KuaiRec's complete matrix says of 1,411 users which of 3,327 videos they like. Simple rankers stand in for arms, with
lists of 20. The truth of a pair is the twins' lift: what all users take from one arm's list, against the other's. Then
200 times 500 users get one interleaved list each, and take what they like of it: has their preference the lift's sign?
Beside it the same 500 users in a split. Users look at the whole list: no place is better than another. Last comes an
A/A: two rankers that differ by chance alone, drawn anew each time.

    python -m benchmarks.interleaving_study [--data ../shared/data/kuairec/kuairec_fully_observed.npz]
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recall.reproduction.facts import machine, versions
from service.experiments.team_draft import draft, seed_of
from service.experiments.verdict.judge import AnalysisPlan, Lift
from service.experiments.verdict.preference import TUNED_USERS, preference_of

RESULTS = Path(__file__).parent / "results" / "interleaving_study.jsonl"
LENGTH, USERS, REVEALED = 20, 500, 10
LEAST_LIFT, CRITERION = 0.02, 0.95
TOP, FALSE_ALARMS = 300, (0.01, 0.09)  # of 200 tests at alpha .05: 2.6 standard errors around it
PLAN = AnalysisPlan(
    weights={"a": 0.5, "b": 0.5}, control="a", primary="plays", guardrails=(), tuned_users=TUNED_USERS, final=True
)
Row = dict[str, Any]
Lists = NDArray[np.int64]  # (U, LENGTH) columns of the matrix


def read_matrix(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """The users' likes (U, N), popularity in the logs (N,), and items that the logs' users took together (N, N)."""
    with np.load(path, allow_pickle=False) as data:
        items, likes = data["small_items"], data["test_pos"]
        logs = np.concatenate([data["train"], data["valid"]])
    column = {item: number for number, item in enumerate(items.tolist())}
    users = {user: number for number, user in enumerate(np.unique(likes[:, 0]).tolist())}
    matrix = np.zeros((len(users), len(items)), dtype=np.bool_)
    matrix[[users[user] for user in likes[:, 0].tolist()], [column[item] for item in likes[:, 1].tolist()]] = True
    logs = logs[np.isin(logs[:, 1], items)]
    others = {user: number for number, user in enumerate(np.unique(logs[:, 0]).tolist())}
    taken = np.zeros((len(others), len(items)))
    taken[[others[user] for user in logs[:, 0].tolist()], [column[item] for item in logs[:, 1].tolist()]] = 1
    norms = np.sqrt(np.maximum(taken.sum(0), 1))
    return matrix, taken.sum(0), taken.T @ taken / norms / norms[:, None]


def arms_of(path: Path, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.float64], dict[str, Lists]]:
    """The likes that are not known yet, popularity, and each arm's list for each user; ten likes are a history."""
    liked, popularity, similar = read_matrix(path)
    known = np.zeros_like(liked)
    for user, own in enumerate(liked):
        known[user, rng.choice(np.flatnonzero(own), min(REVEALED, int(own.sum()) // 2), replace=False)] = True
    np.fill_diagonal(similar, 0)
    personal = known @ similar
    popular = np.log1p(popularity) / np.log1p(popularity).max()
    scores = {
        "popular": np.broadcast_to(popular, liked.shape),
        # small lifts are what a test is for: those of strong noise would be told apart by anything
        "noise .01": popular + rng.normal(0, 0.01, liked.shape),
        "noise .02": popular + rng.normal(0, 0.02, liked.shape),
        "noise .03": popular + rng.normal(0, 0.03, liked.shape),
        "neighbours .05": popular + 0.05 * personal / personal.max(1, keepdims=True),
        "neighbours .2": popular + 0.2 * personal / personal.max(1, keepdims=True),
    }
    lists = {
        name: np.argsort(-np.where(known, -np.inf, own), kind="stable")[:, :LENGTH] for name, own in scores.items()
    }
    return liked & ~known, popular, lists


def interleave(lists: tuple[Lists, Lists], liked: NDArray[np.bool_], seed: str) -> Lift | None:
    """The preference for the second list of users who each take what they like of one interleaved list."""
    credit = np.zeros((2, len(liked)))
    rows = [own.tolist() for own in lists]
    for user, likes in enumerate(liked):
        own = (rows[0][user], rows[1][user])
        for team, at in zip(*draft(own, LENGTH, seed_of(seed, str(user))), strict=True):
            credit[team, user] += likes[own[team][at]]
    return preference_of((credit[0], credit[1]), PLAN)


def is_clear(preference: Lift | None) -> bool:
    return preference is not None and preference.fixed[0] * preference.fixed[1] > 0


def study_pair(names: tuple[str, str], liked: NDArray[np.bool_], arms: dict[str, Lists], seed: int, draws: int) -> Row:
    lists = (arms[names[0]], arms[names[1]])
    plays = [liked[np.arange(len(liked))[:, None], own].sum(1) for own in lists]  # of the twins
    lift = plays[1].mean() / plays[0].mean() - 1
    rng, half = np.random.default_rng(seed), USERS // 2
    agreed, clear, wrong, split = 0, 0, 0, 0
    for number in range(draws):
        users = rng.choice(len(liked), USERS, replace=False)
        preference = interleave((lists[0][users], lists[1][users]), liked[users], f"{names} {number}")
        agrees = preference is not None and preference.estimate * lift > 0
        agreed += agrees
        clear += agrees and is_clear(preference)
        wrong += not agrees and is_clear(preference)
        split += (plays[1][users[:half]].mean() - plays[0][users[half:]].mean()) * lift > 0
    counts = abs(lift) > LEAST_LIFT
    shares = {"agrees": agreed, "clear": clear, "clear_and_wrong": wrong, "split_agrees": split}
    row = {"control": names[0], "treatment": names[1], "true_lift": round(float(lift), 4)}
    row |= {name: count / draws for name, count in shares.items()}
    return row | {"counts": bool(counts), "met": bool(not counts or agreed >= CRITERION * draws)}


def study_nothing(liked: NDArray[np.bool_], popular: NDArray[np.float64], seed: int, draws: int) -> Row:
    """Two rankers that are popularity with noise of the same strength, drawn anew for each test."""
    rng, clear = np.random.default_rng(seed), 0
    top = np.argsort(-popular)[:TOP]
    for number in range(draws):
        users = rng.choice(len(liked), USERS, replace=False)
        noisy = popular[top] + rng.normal(0, 0.03, (2, USERS, TOP))
        lists = top[np.argsort(-noisy, axis=-1)[:, :, :LENGTH]]
        clear += is_clear(interleave((lists[0], lists[1]), liked[users], f"nothing {number}"))
    low, high = FALSE_ALARMS
    return {"control": "A", "treatment": "A", "clear": clear / draws, "met": low * draws <= clear <= high * draws}


def study(path: Path, seed: int, draws: int) -> Iterator[Row]:
    liked, popular, arms = arms_of(path, np.random.default_rng(seed))
    for names in combinations(arms, 2):
        yield study_pair(names, liked, arms, seed, draws)
    yield study_nothing(liked, popular, seed, draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/kuairec/kuairec_fully_observed.npz"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=200, help="experiments a pair; the criteria are for 200")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON Lines; the study's own line is written anew")
    options = parser.parse_args()
    started, rows = time.process_time(), []
    for row in study(options.data, options.seed, options.draws):
        print(json.dumps(row))
        rows.append(row)
    facts = {"seed": options.seed, "users": USERS, "draws": options.draws, "length": LENGTH}
    facts |= {"cpu_s": round(time.process_time() - started, 1), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    whole = {"rows": rows, **facts, "machine": machine("cpu"), "versions": versions()}
    kept = options.output.read_text(encoding="utf-8").splitlines() if options.output.exists() else []
    # rows of benchmarks/interleaving_credit.py stay
    lines = [json.dumps(whole, default=str), *(line for line in kept if "what" in json.loads(line))]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not all(row["met"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
