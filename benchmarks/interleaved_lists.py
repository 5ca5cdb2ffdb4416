"""The lists of both arms behind interleaved ones: the material of `python -m benchmarks.interleaving_credit`.

KuaiRand's users of `recall experiment replay` open the app a few times. Either arm makes its list by the service's own
computation, the draft mixes both, the user reacts to what is shown, and the next lists are made of a history that has
grown by the plays. The lists of both arms are kept whole, so that drafts and credits can be tried on the same lists.

    python -m benchmarks.interleaved_lists --work runs/replay/kuairand --output runs/lists     # of kept bundles
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recall.replay.arms import CONTROL, TREATMENT
from recall.replay.audiences.audience import Audience
from recall.replay.audiences.kuairand import LogAudience
from recall.replay.command import AUDIENCES
from service.engine.loading import LoadedArm, load_arm
from service.experiments.team_draft import draft, seed_of
from service.lists.fill import complete

GROUP = 128  # users of a part


def lists_of(
    arm: LoadedArm, users: Sequence[int], histories: Sequence[Sequence[int]], seen: Sequence[set[int]], top_n: int
) -> list[list[int]]:
    """Each user's list, as the service would answer."""
    release = arm.release
    requests = [
        release.request(user, history, sorted(own), top_n)
        for user, history, own in zip(users, histories, seen, strict=True)
    ]
    results = arm.compute.run(requests)
    filled = (
        complete(release.items, result.merged, request).rows for request, result in zip(requests, results, strict=True)
    )
    return [[int(item) for item in release.catalogue.items.external(rows.tolist())] for rows in filled]


def play(
    arms: Mapping[str, LoadedArm], audience: Audience, users: Sequence[int], options: argparse.Namespace
) -> pl.DataFrame:
    """One row a user and session: both lists."""
    pasts = [audience.past(user) for user in users]
    histories, seen = [[*past.plays] for past in pasts], [{*past.seen, *past.plays} for past in pasts]
    rows: list[dict[str, Any]] = []
    for session in range(options.sessions):
        both = [lists_of(arms[name], users, histories, seen, options.top_n) for name in (CONTROL, TREATMENT)]
        for number, (user, *lists) in enumerate(zip(users, *both, strict=True)):
            drafted = draft((lists[0], lists[1]), options.top_n, seed_of(str(options.seed), str(user), str(session)))
            shown = [lists[team][place] for team, place in zip(drafted.teams, drafted.places, strict=True)]
            plays = audience.react(np.full(len(shown), user), np.array(shown, dtype=np.int64)).plays
            histories[number] += [item for item, played in zip(shown, plays.tolist(), strict=True) if played]
            seen[number] |= set(shown)
            rows.append({"user": user, "session": session, "control": lists[0], "treatment": lists[1]})
    return pl.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True, help="folder of `recall experiment replay`, with bundles")
    parser.add_argument("--users", type=int, help="of the audience, in its order; left out, all")
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--top-n", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder of Parquet files; what is there is kept")
    options = parser.parse_args()
    audience = LogAudience(options.data / AUDIENCES["kuairand"], options.seed, options.users)
    arms = {arm: load_arm(arm, options.work / "bundles" / arm, "cpu") for arm in (CONTROL, TREATMENT)}
    options.output.mkdir(parents=True, exist_ok=True)
    users = audience.users.tolist()
    for start in range(0, len(users), GROUP):
        path = options.output / f"{start:06d}.parquet"
        if not path.exists():
            play(arms, audience, users[start : start + GROUP], options).write_parquet(path)


if __name__ == "__main__":
    main()
