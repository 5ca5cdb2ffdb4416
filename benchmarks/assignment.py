"""Assignment at scale: `python -m benchmarks.assignment`. Prints one JSON line.

Random Unicode ids in three more processes, each with an assigner of its own, against the hash of the SDK's helpers;
coverage from 1 to 100 %; three experiments that exclude each other by one layer.
"""

import argparse
import json
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b
from multiprocessing import get_context
from typing import Any

from growthbook.core import chooseVariation, gbhash, getBucketRanges

from service.experiments.assignment import Assigner

ARMS = ["comirec", "recgpt", "sasrec"]
WEIGHTS = [0.2, 0.3, 0.5]
SPLIT: dict[str, Any] = {
    "key": "exp",
    "hashAttribute": "user_id",
    "hashVersion": 2,
    "variations": ARMS,
    "weights": WEIGHTS,
}
COVERAGES = (0.01, 0.05, 0.25, 0.5, 0.99, 1)
LAYER = ((0.0, 0.2), (0.2, 0.55), (0.55, 0.9))


def assigner(*rules: dict[str, Any]) -> Assigner:
    return Assigner.from_features({"features": {"recall_arm": {"defaultValue": "comirec", "rules": [*rules]}}}, ARMS)


def unicode_ids(number: int) -> list[str]:
    """Distinct ids of 1 to 24 code points, before their number: ASCII to Indic, ideographs of two planes, emoji."""
    rng = random.Random(7)
    ranges = [(0x21, 0x7F), (0xA1, 0x250), (0x400, 0x1000), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF)]
    return [
        "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(1, 25))) + f"{n:x}"
        for n in range(number)
    ]


def digest(number: int) -> str:
    """The arms of that many ids, as one process gives them."""
    ours = assigner(SPLIT)
    return blake2b("".join(ours.assign(user).arm for user in unicode_ids(number)).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=1_000_000, help="of the exclusive experiments")
    options = parser.parse_args()
    started = time.process_time()
    ids, ours = unicode_ids(options.ids), assigner(SPLIT)
    ranges = getBucketRanges(len(ARMS), 1, WEIGHTS)
    expected = [ARMS[chooseVariation(gbhash("exp", user, 2) or 0.0, ranges)] for user in ids]
    num_other = sum(ours.assign(user).arm != arm for user, arm in zip(ids, expected, strict=True))
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        digests = {*pool.map(digest, [options.ids] * 3), digest(options.ids)}
    steps = [assigner(SPLIT | {"coverage": share}) for share in COVERAGES]
    num_moved = 0
    for user in ids:
        arms = [chosen.arm for chosen in (step.assign(user) for step in steps) if chosen.in_experiment]
        num_moved += len({*arms}) > 1
    exclusive = assigner(
        *(
            SPLIT
            | {
                "key": f"exp-{n}",
                "filters": [{"seed": "layer", "attribute": "user_id", "hashVersion": 2, "ranges": [[*bounds]]}],
            }
            for n, bounds in enumerate(LAYER)
        )
    )
    counts, num_shared = dict.fromkeys([None, "exp-0", "exp-1", "exp-2"], 0), 0
    for number in range(options.users):
        user = f"user-{number}"
        bucket = gbhash("layer", user, 2) or 0.0
        inside: list[str | None] = [f"exp-{n}" for n, (low, high) in enumerate(LAYER) if low <= bucket < high]
        chosen = exclusive.assign(user).experiment
        num_shared += [chosen] != (inside or [None])
        counts[chosen] += 1
    row = {
        "ids": options.ids,
        "differ_from_the_sdk": num_other,
        "answers_of_4_processes": len(digests),
        "moved_by_coverage": num_moved,
        "users": options.users,
        "not_in_the_one_of_their_layer": num_shared,
        "users_of_each": [counts[f"exp-{n}"] for n in range(3)],
        "cpu_s": round(time.process_time() - started, 1),
    }
    print(json.dumps(row))
    sys.exit(1 if num_other or num_moved or num_shared or len(digests) > 1 else 0)


if __name__ == "__main__":
    main()
