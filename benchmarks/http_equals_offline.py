"""1,000 users of a data set asked over HTTP, many at once, must get exactly the lists of the offline evaluation.

    python -m benchmarks.http_equals_offline --data DATA --arm recgpt=BUNDLE --arm comirec=BUNDLE [--users 1000]

Every user is asked twice: the second answer comes from cached vectors and must be the same. The last line is JSON.
"""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from model.data.sequences import SequenceData
from model.evaluation.protocol import EvalSplit
from recall.bench.target import running
from recall.options import read_pairs
from service.engine.loading import load_arm
from service.engine.offline import OfflineArm, check_same_data

TOP_N, CONCURRENCY = 100, 32


async def ask_all(url: str, arm: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    gate = asyncio.Semaphore(CONCURRENCY)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def ask(body: dict[str, Any]) -> dict[str, Any]:
            async with gate:
                reply = await client.post(f"/recall/{arm}", json=body)
                reply.raise_for_status()
                answer: dict[str, Any] = reply.json()
                return answer

        return list(await asyncio.gather(*map(ask, bodies)))


def compare(url: str, name: str, bundle: Path, data: SequenceData, num_users: int) -> dict[str, Any]:
    arm = load_arm(name, bundle, "cpu")
    check_same_data(arm.release, data)
    users: list[int] = EvalSplit.of(data, "test", num_users).users.tolist()
    items, catalogue = arm.release.catalogue.items, data.catalogue
    bodies = [
        {"user_id": user_id, "history": items.external(data.history(user, "test").tolist()), "top_n": TOP_N}
        for user, user_id in zip(users, catalogue.users.external(users), strict=True)
    ]
    expected = [items.external(rows) for rows in OfflineArm(arm, data).lists(users, "test", TOP_N)]
    report: dict[str, Any] = {"users": len(users), "bundle": arm.release.bundle}
    for round_name in ("first", "second"):
        answers = asyncio.run(ask_all(url, name, bodies))
        report[f"{round_name}_different"] = sum(a["items"] != e for a, e in zip(answers, expected, strict=True))
        report[f"{round_name}_hits"] = sum(a["cache"] == "hit" for a in answers)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--arm", action="append", required=True, help="NAME=BUNDLE")
    parser.add_argument("--users", type=int, default=1000)
    args = parser.parse_args()
    arms = {name: Path(path) for name, path in read_pairs(args.arm, "NAME=BUNDLE").items()}
    data = SequenceData.load(args.data)
    with running(arms) as url:
        print(json.dumps({name: compare(url, name, bundle, data, args.users) for name, bundle in arms.items()}))


if __name__ == "__main__":
    main()
